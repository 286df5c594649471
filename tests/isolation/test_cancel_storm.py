"""The fault of March 2023: a cancelled read leaves its answer on a pooled connection, and the next caller gets it.

Reads through a proxy that makes them late, given up at all moments. Every value says whose it is; none may reach anybody
else. CANCEL_STORM_READS sets how many reads there are at least (CI 100,000; a long run 2,000,000).
"""

import asyncio
import os
import random
from collections.abc import Iterable, Sequence
from uuid import uuid4

import pytest

from sessions.config import RedisConfig
from sessions.keys import session_key
from sessions.link import RedisLink
from sessions.metrics import OWNER_MISMATCHES
from sessions.servers import Call
from sessions.state import Session
from sessions.store import RedisLiveState
from tests.faults.proxy import Hop

READS = int(os.environ.get("CANCEL_STORM_READS", "100000"))
PEOPLE, AT_ONCE, TOGETHER = 64, 500, 50
PATIENCE = (0.0, 0.001, 0.004, 0.02, None, None)
"""Seconds after which a reader gives up: as it asks, under way, when the answers arrive; or never."""
QUESTIONS = (1, 1, 8, 32)
"""Of a reader: one by the whole way of a turn's read, or several that travel as one, which costs each a tenth."""


class Storm:
    """Readers of everybody's sessions, and what came of their reads."""

    def __init__(self, link: RedisLink) -> None:
        self.answered = self.cancelled = self.wrong = 0
        self._link = link
        self._live = RedisLiveState(link)
        self._sessions = [Session(uuid4(), uuid4(), "general", None, 0, ()) for _ in range(PEOPLE)]
        self._chance = random.Random(2023)

    async def save(self) -> None:
        for session in self._sessions:
            await self._live.save(session, None)

    async def read(self, wanted: Sequence[Session]) -> None:
        try:
            if len(wanted) == 1:
                found = await self._live.load(wanted[0].owner, wanted[0].conversation_id)
                self.wrong += found.session != wanted[0]
            else:
                keys = [session_key(session.conversation_id) for session in wanted]
                values = await self._link.ask([Call(key, ("GET", key)) for key in keys])
                self.wrong += sum(value != session.encode() for value, session in zip(values, wanted, strict=True))
        except asyncio.CancelledError:
            self.cancelled += len(wanted)
            raise
        self.answered += len(wanted)

    async def blow(self) -> None:
        """Many readers at once, in several round trips: patient and hurried ones stand in the same queue."""
        hurried: dict[float, list[asyncio.Task[None]]] = {patience: [] for patience in PATIENCE if patience is not None}
        tasks = []
        for place in range(AT_ONCE):
            wanted = self._chance.choices(self._sessions, k=self._chance.choice(QUESTIONS))
            tasks.append(asyncio.create_task(self.read(wanted)))
            if (patience := self._chance.choice(PATIENCE)) is not None:
                hurried[patience].append(tasks[-1])
            if place % TOGETHER == TOGETHER - 1:
                await asyncio.sleep(0)
        loop = asyncio.get_running_loop()
        for patience, readers in hurried.items():
            # one timer for all of a kind: one of its own costs a reader as much as reading does
            loop.call_later(patience, give_up, readers)
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ended if isinstance(end, Exception)] == []


def give_up(readers: Iterable[asyncio.Task[None]]) -> None:
    for reader in readers:
        reader.cancel()


@pytest.mark.timeout(3600)
async def test_a_cancelled_read_never_answers_another(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    head, _, rest = redis_url.rpartition("@")
    port, _, number = rest.partition(":")[2].partition("/")
    hop = await Hop(int(port)).open()
    link = RedisLink(RedisConfig(f"{head}@127.0.0.1:{hop.port}/{number}", timeout=30))
    storm = Storm(link)
    await storm.save()
    before = OWNER_MISMATCHES._value.get()
    hop.delay = 0.002
    while (reads := storm.answered + storm.cancelled) < READS:
        await storm.blow()
    await link.aclose()
    await hop.close()
    with capsys.disabled():
        print(f"\n{reads:,} reads: {storm.answered:,} answered, {storm.cancelled:,} cancelled, {storm.wrong} wrong")
    assert storm.wrong == 0
    assert OWNER_MISMATCHES._value.get() == before
    assert storm.cancelled > READS / 10
    assert storm.answered > READS / 10
