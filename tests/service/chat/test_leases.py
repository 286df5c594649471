"""Leases of a process that writes thousands of replies are longer, and never so long that an erasure waits in vain."""

from uuid import uuid4

import pytest

from memory.gates import Gate
from memory.postgres import Database, PoolConfig
from service.chat.leases import LeaseKeeper


class Writer:
    epoch = 1

    def __init__(self) -> None:
        self.user_id, self.turn_id = uuid4(), uuid4()

    def checkpoint(self) -> None: ...

    def place(self) -> None: ...

    def halt(self, reason: str) -> None:
        raise AssertionError(reason)


@pytest.mark.parametrize(("replies", "seconds"), [(0, 1.5), (1000, 1.5), (2000, 3.0), (3000, 4.5), (20_000, 4.5)])
def test_leases_grow_with_what_a_process_writes(replies: int, seconds: float) -> None:
    keeper = LeaseKeeper(Database(PoolConfig("postgresql://nobody@127.0.0.1:1/none")), 1.5, Gate(("general",)))
    for _ in range(replies):
        keeper.hold(Writer())
    assert keeper.lease_seconds == seconds
    assert keeper.lease_seconds / 3 <= 1.5, "who forgets waits for so long that each writer has heard (Forgetter)"
