"""The fault of March 2023: a cancelled read leaves its answer on a pooled connection, and the next caller gets it.

Reads through a proxy that makes them late, cancelled at random moments. Every value says whose it is; none may reach
anybody else. CANCEL_STORM_READS sets how many reads there are (CI 15,000; the full run 1,000,000).
"""

import asyncio
import os
import random
from uuid import uuid4

import pytest

from sessions.config import RedisConfig
from sessions.link import RedisLink
from sessions.metrics import OWNER_MISMATCHES
from sessions.state import Session
from sessions.store import RedisLiveState
from tests.faults.proxy import Hop

READS = int(os.environ.get("CANCEL_STORM_READS", "15000"))
PEOPLE, AT_ONCE = 64, 200


@pytest.mark.timeout(3600)
async def test_a_cancelled_read_never_answers_another(redis_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    chance = random.Random(2023)
    head, _, rest = redis_url.rpartition("@")
    port, _, number = rest.partition(":")[2].partition("/")
    hop = await Hop(int(port)).open()
    link = RedisLink(RedisConfig(f"{head}@127.0.0.1:{hop.port}/{number}", timeout=30))
    live = RedisLiveState(link)
    sessions = [Session(uuid4(), uuid4(), "general", None, 0, ()) for _ in range(PEOPLE)]
    for session in sessions:
        await live.save(session, None)
    before = OWNER_MISMATCHES._value.get()
    outcome = {"read": 0, "cancelled": 0, "wrong": 0}
    hop.delay = 0.002

    async def read(session: Session) -> None:
        found = await live.load(session.owner, session.conversation_id)
        outcome["read"] += 1
        outcome["wrong"] += found.session != session

    async def hurried(session: Session, patience: float) -> None:
        try:
            async with asyncio.timeout(patience):
                await read(session)
        except TimeoutError:
            outcome["cancelled"] += 1

    for _ in range(0, READS, AT_ONCE):
        people = [chance.choice(sessions) for _ in range(AT_ONCE)]
        await asyncio.gather(*(hurried(person, chance.choice([0.001, 0.003, 0.02, 10.0])) for person in people))
    await link.aclose()
    await hop.close()
    with capsys.disabled():
        print(
            f"\n{READS:,} reads: {outcome['read']:,} answered, {outcome['cancelled']:,} cancelled, {outcome['wrong']} wrong"
        )
    assert outcome["wrong"] == 0
    assert OWNER_MISMATCHES._value.get() == before
    assert outcome["cancelled"] > READS / 10
    assert outcome["read"] > READS / 10
