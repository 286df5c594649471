"""Turns and the short faults run on a cluster, behind Sentinels, with a replica and through PgBouncer."""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import aiohttp
import asyncpg
import pytest
import pytest_asyncio

from tests.clusters.postgreses import needed
from tests.clusters.worlds import TOPOLOGIES, BouncerWorld, ReplicaWorld, ValkeysWorld
from tests.faults.clients import events
from tests.faults.run import Plan, run
from tests.faults.test_faults import SEED, SHORT, tell
from tests.faults.upstream import tokens
from tests.faults.verdict import drain
from tests.faults.world import Part, World, opened_world
from tests.streams import Bubble

pytestmark = [pytest.mark.faults, pytest.mark.timeout(240), pytest.mark.asyncio(loop_scope="module")]

WORDS = 60
SMOKE = {
    "cluster": {"kill valkey": 1, "kill api": 2, "redis lost answer": 1},
    "sentinel": {"kill valkey": 1, "kill api": 2, "redis lost answer": 1},
    "replica": {"kill replica": 1, "late replica": 2, "kill api": 2},
    "pgbouncer": {"restart pgbouncer": 2, "kill api": 2, "kill worker": 1, "postgres lost answer": 1},
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TOPOLOGIES)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    if request.param == "pgbouncer":
        needed()
    with TemporaryDirectory(prefix="rapport-clusters-") as home:
        async with opened_world(Path(home), kind=TOPOLOGIES[request.param][0]) as world:
            yield world


def name_of(world: World) -> str:
    return next(name for name, (kind, _) in TOPOLOGIES.items() if isinstance(world, kind))


@dataclass
class Talk:
    """One user's conversation, read wherever one likes."""

    world: World
    user: str
    conversation: str = ""
    turn: str = ""
    said: int = 0
    bubble: Bubble = field(default_factory=Bubble)

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.world.token(self.user)}"}

    async def begin(self, part: Part) -> "Talk":
        async with self.world.session.post(f"{part.url}/v1/conversations", json={}, headers=self.headers) as answer:
            self.conversation = (await answer.json())["id"]
        return self

    async def say(self, part: Part, deltas: int | None = None) -> None:
        """Say something and read the reply, or so much of it."""
        self.said += 1
        self.bubble = Bubble()
        body = {
            "content": f"My canary-{self.user}-{self.said} is a secret. Now say {self.user}x{self.said} {WORDS}",
            "backend": "large",
            "client_message_id": f"{self.user}-{self.said}",
        }
        url = f"{part.url}/v1/conversations/{self.conversation}/turns"
        for _ in range(20):
            async with self.world.session.post(url, json=body, headers=self.headers) as answer:
                if answer.status == 503:  # what stands before the database is away: come again, as it says
                    await asyncio.sleep(int(answer.headers["Retry-After"]))
                    continue
                assert answer.status == 200, await answer.text()
                await self._read(answer, deltas)
                break
        self.turn = self.bubble.data("turn.accepted")["turn_id"]

    async def follow(self, *parts: Part) -> None:
        """Read on to the end, from one after the other, however often a connection breaks."""
        for _ in range(100):
            for part in parts:
                url = f"{part.url}/v1/conversations/{self.conversation}/turns/{self.turn}/stream"
                headers = {**self.headers, "Last-Event-ID": self.bubble.last or ""}
                try:
                    async with self.world.session.get(url, headers=headers) as answer:
                        if answer.status == 200:
                            await self._read(answer, None)
                except (aiohttp.ClientError, OSError):
                    await asyncio.sleep(0.1)
                if self.bubble.ended:
                    return
            await asyncio.sleep(0.1)

    async def _read(self, answer: aiohttp.ClientResponse, deltas: int | None) -> None:
        async for event in events(answer):
            self.bubble.take(*event)
            if deltas is not None and self.bubble.kinds.count("reply.delta") >= deltas:
                return

    @property
    def whole(self) -> bool:
        return self.bubble.text == tokens(f"{self.user}x{self.said}", WORDS) and "turn.completed" in self.bubble.kinds

    async def stored(self, part: Part) -> list[str]:
        url = f"{part.url}/v1/conversations/{self.conversation}/messages"
        async with self.world.session.get(url, headers=self.headers) as answer:
            items: list[dict[str, Any]] = (await answer.json())["items"]
        return [item["content"] for item in items]


async def facts_of(world: World, conversation: str) -> list[int]:
    """What was learnt of a conversation: the messages' numbers."""
    connection = await asyncpg.connect(world.postgres.url("rapport", superuser=True))
    rows = await connection.fetch(
        """SELECT s.seq FROM facts f JOIN fact_sources s ON s.user_id = f.user_id AND s.fact_id = f.id
        WHERE f.conversation_id::text = $1 ORDER BY s.seq""",
        conversation,
    )
    await connection.close()
    return [row["seq"] for row in rows]


async def reads_of(part: Part, by: str) -> float:
    async with aiohttp.ClientSession() as session, session.get(f"{part.url}/metrics") as answer:
        lines = [line for line in (await answer.text()).splitlines() if line.startswith("rapport_reads_total{")]
    return sum(float(line.split()[-1]) for line in lines if f'by="{by}"' in line)


async def test_a_turn_from_one_end_to_the_other(world: World) -> None:
    """Streamed, read on elsewhere, taken over when its writer dies, stored and learnt from once."""
    await world.populate()
    try:
        first, second = world.apis
        talk = await Talk(world, "ana").begin(first)
        await talk.say(first)
        assert talk.whole, talk.bubble.text
        assert talk.bubble.data("turn.accepted")["resumable"] is True
        await talk.say(first, deltas=3)
        await talk.follow(second)
        assert talk.whole, talk.bubble.text
        assert talk.bubble.repeated == 0
        await talk.say(first, deltas=5)
        world.keeping = False
        world.signal(first, signal.SIGKILL)
        await talk.follow(second)
        assert talk.whole, talk.bubble.text
        assert (talk.bubble.repeated, talk.bubble.rebased) == (0, 0)
        assert "turn.taken_over" in talk.bubble.kinds
        assert [content.startswith("My canary") for content in await talk.stored(second)] == [True, False] * 3
        assert (await talk.stored(second))[-1] == talk.bubble.text
        assert await drain(world, 60) is not None
        assert await facts_of(world, talk.conversation) == [1, 3, 5]
        if isinstance(world, ReplicaWorld):
            assert await reads_of(second, "replica") > 0, "nothing was read from the replica"
    finally:
        await world.depopulate()


async def kill_what_is_its_own(world: World) -> None:
    if isinstance(world, ValkeysWorld):
        await world.kill_valkey()
    elif isinstance(world, ReplicaWorld):
        await world.restart_replica()
    elif isinstance(world, BouncerWorld):
        assert world.bouncer is not None
        world.bouncer.restart()


@pytest.mark.slow
async def test_a_part_of_it_is_killed_under_replies(world: World) -> None:
    """A primary, the replica, or PgBouncer: several replies are under way, and all of them end as they should."""
    await world.populate()
    try:
        first, second = world.apis
        talks = [await Talk(world, f"eva{number}").begin(first) for number in range(6)]
        saying = [asyncio.create_task(talk.say(part)) for talk, part in zip(talks, [first, second] * 3, strict=True)]
        await asyncio.sleep(0.4)
        await kill_what_is_its_own(world)
        for talk, said in zip(talks, saying, strict=True):
            await said
            assert talk.whole, talk.bubble.text
            assert talk.bubble.repeated == 0
        for talk in talks:
            await talk.say(second)
            assert talk.whole
    finally:
        await world.depopulate()


async def test_nothing_is_lost_when_a_part_of_it_dies(world: World) -> None:
    outcome = await run(world, Plan(SEED, SMOKE[name_of(world)], clients=4, words=40))
    tell(outcome)
    assert not outcome.short_of_plan
    assert not outcome.verdict.broken, outcome.verdict.summary()
    if isinstance(world, ValkeysWorld):
        assert world.failovers >= 1, "no server took over"


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_the_short_run_passes(world: World) -> None:
    plan = Plan(SEED, {**SHORT, **TOPOLOGIES[name_of(world)][1]}, drain_seconds=300.0)
    outcome = await run(world, plan)
    tell(outcome)
    assert not outcome.short_of_plan
    assert not outcome.verdict.broken, outcome.verdict.summary()
