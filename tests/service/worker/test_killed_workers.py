"""Real workers killed at any line: every message is learnt from once. And what makes it so, switched off, is missed."""

import asyncio
import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from memory.learning import LearnConfig
from memory.postgres import Database
from service.sweeper import Sweeper, SweeperConfig
from service.worker.broker import BrokerConfig, open_broker
from service.worker.wakeups import DramatiqJobs
from tests.memory.learning_kit import Talk, opened

CHECKOUT = Path(__file__).parents[3]
SEED = 20261122
KILLS = int(os.environ.get("WORKER_KILLS", "20"))
"""The table in docs/memory.md is of 40."""
STOPS = KILLS // 8 or 1
DRAIN_SECONDS = 120.0
"""Seven on an idle machine of two cores; a run is not red because its neighbours are busy."""
# kills are not the text's fault, but nothing can tell: so many in so few seconds would use up five attempts
CONFIG = LearnConfig(batch=4, attempts=1000, lease_seconds=0.5, retry_seconds=0.05, judge=False)


class Nursery:
    """The workers' parent; one for all tests here, since it takes seconds to begin."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.service.worker.doomed"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=CHECKOUT,
        )

    def tell(self, order: object) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{json.dumps(order)}\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"the workers' parent died: {self.process.poll()}"
        return line.strip()


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.process.communicate(timeout=20)


class Doomed:
    """The workers of one test, and who is alive by what their parent said."""

    def __init__(self, nursery: Nursery, order: dict[str, Any], config: LearnConfig) -> None:
        plain = {name: value for name, value in dataclasses.asdict(config).items() if name != "summary"}
        self._parent = nursery
        self._parent.tell({**order, "config": plain})
        self.pids: list[int] = []
        self._dead: set[int] = set()

    async def started(self, workers: int) -> None:
        while len(self.pids) < workers:
            await self.read()

    async def read(self) -> None:
        self.pids.append(int(await asyncio.to_thread(self._parent.hear)))

    async def kill(self, chance: random.Random) -> None:
        """Kill one, and wait until its successor is there."""
        victim = chance.choice([pid for pid in self.pids if pid not in self._dead])
        os.kill(victim, signal.SIGKILL)
        self._dead.add(victim)
        await self.read()

    async def pause(self, chance: random.Random, seconds: float) -> None:
        """Stop one for longer than its lease: when it wakes, it believes to be the only learner still."""
        victim = chance.choice([pid for pid in self.pids if pid not in self._dead])
        os.kill(victim, signal.SIGSTOP)
        await asyncio.sleep(seconds)
        os.kill(victim, signal.SIGCONT)

    def close(self) -> None:
        self._parent.tell("end")
        while self._parent.hear() != "none":
            pass  # who was replaced after the last kill


@dataclass
class Observer:
    """Says the messages, and keeps its own list of what was acknowledged."""

    database: Database
    jobs: DramatiqJobs
    chance: random.Random
    talks: list[Talk] = field(default_factory=list)
    said: list[tuple[str, int]] = field(default_factory=list)

    async def open(self, conversations: int) -> None:
        for number in range(conversations):
            self.talks.append(await Talk(self.database, f"user {number % 4}").open())

    async def talk_for_ever(self) -> None:
        while True:
            await self.say_something()
            await asyncio.sleep(self.chance.uniform(0.005, 0.05))

    async def say_something(self) -> None:
        talk = self.chance.choice(self.talks)
        words = ["".join(self.chance.choices("aeioubdklmnprst", k=8)) for _ in range(self.chance.randint(1, 3))]
        first = await talk.say(*(f"My lucky {word} is a secret." for word in words))
        self.said += [(str(talk.id), first + at) for at in range(len(words))]
        for _ in range(self.chance.choice([0, 1, 1, 2, 5])):  # some wake-ups are lost, some come many times
            await self.jobs.wake_learner(talk.user_id, talk.id)

    async def learnt(self) -> Counter[tuple[str, int]]:
        async with self.database.system() as connection:
            rows = await connection.fetch("SELECT conversation_id, source_seq FROM facts")
        return Counter((str(row["conversation_id"]), row["source_seq"]) for row in rows)

    async def drained(self) -> float:
        """Seconds until nothing is left to learn from."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while loop.time() - began < DRAIN_SECONDS:
            async with self.database.system() as connection:
                left = await connection.fetchval("SELECT count(*) FROM conversations WHERE learnt_seq < next_seq - 1")
            if not left:
                break
            await asyncio.sleep(0.1)
        return loop.time() - began


@dataclass(frozen=True)
class Outcome:
    messages: int
    once: int
    twice: int
    lost: int
    episodes: int
    quarantined: int
    drain: float

    @property
    def right(self) -> bool:
        return self.once == self.messages == self.episodes and not (self.twice or self.lost or self.quarantined)

    def __str__(self) -> str:
        return (
            f"messages {self.messages}, learnt once {self.once}, twice {self.twice}, lost {self.lost}, "
            f"episodes {self.episodes}, quarantined {self.quarantined}, drained in {self.drain:.1f} s"
        )


async def judge(observer: Observer) -> Outcome:
    drain = await observer.drained()
    learnt = await observer.learnt()
    async with observer.database.system() as connection:
        episodes = await connection.fetchval("SELECT count(*) FROM episodes")
        quarantined = await connection.fetchval("SELECT count(*) FROM quarantine")
    return Outcome(
        messages=len(observer.said),
        once=sum(learnt[key] == 1 for key in observer.said),
        twice=sum(learnt[key] > 1 for key in observer.said),
        lost=sum(learnt[key] == 0 for key in observer.said),
        episodes=episodes,
        quarantined=quarantined,
        drain=drain,
    )


@asynccontextmanager
async def running(
    nursery: Nursery, dsn: str, broker_url: str, config: LearnConfig, workers: int, *, compare_and_set: bool = True
) -> AsyncIterator[tuple[Observer, Doomed]]:
    """Workers, a sweeper and somebody who talks."""
    async with opened(dsn) as database:
        jobs = DramatiqJobs(open_broker(BrokerConfig(broker_url)))
        observer = Observer(database, jobs, random.Random(SEED))
        await observer.open(12)
        order = {"dsn": dsn, "broker_url": broker_url, "workers": workers, "compare_and_set": compare_and_set}
        doomed = Doomed(nursery, order, config)
        sweeper = Sweeper(database, jobs.wake_learner, SweeperConfig(interval=0.2, grace=0.3, again=1.0))
        sweeping = asyncio.create_task(sweeper.run())
        try:
            await doomed.started(workers)
            yield observer, doomed
        finally:
            sweeping.cancel()
            with suppress(asyncio.CancelledError):
                await sweeping
            await asyncio.to_thread(doomed.close)
            await jobs.aclose()


@pytest.mark.faults
@pytest.mark.timeout(300)
async def test_workers_killed_at_any_line_learn_each_message_once(
    nursery: Nursery, new_database: Callable[..., str], broker_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    dsn = await asyncio.to_thread(new_database, migrated=True)
    loop, chance = asyncio.get_running_loop(), random.Random(SEED)
    began = loop.time()
    async with running(nursery, dsn, broker_url, CONFIG, workers=3) as (observer, doomed):
        talking = asyncio.create_task(observer.talk_for_ever())
        for kill in range(KILLS):
            await asyncio.sleep(chance.uniform(0.05, 0.6))
            await doomed.kill(chance)
            if kill % (KILLS // STOPS) == 0:
                await doomed.pause(chance, 2.5 * CONFIG.lease_seconds)
        talking.cancel()
        with suppress(asyncio.CancelledError):
            await talking
        outcome = await judge(observer)
    with capsys.disabled():
        sys.stdout.write(f"\n  {KILLS} kills, {STOPS} pauses, {loop.time() - began:.0f} s, seed {SEED}: {outcome}\n")
    assert outcome.right, str(outcome)
    assert outcome.messages > KILLS * 3, "too little was said for the kills to hit anything"


WALLS = {
    # what holds, and what a run then has to show. Without the lease, learners collide all the time.
    "both walls": (True, True, True),
    "the compare-and-set alone": (True, False, True),
    "the unique key alone": (False, True, True),
    "neither wall": (False, False, False),
}


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", WALLS)
async def test_what_holds_when_learners_collide(
    nursery: Nursery, new_database: Callable[..., str], broker_url: str, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """With the compare-and-set and the key off this very harness sees double: that it is green means something."""
    compare_and_set, unique_key, right = WALLS[name]
    dsn = await asyncio.to_thread(new_database, migrated=True)
    if not unique_key:
        connection = await asyncpg.connect(dsn)
        await connection.execute(
            "ALTER TABLE facts DROP CONSTRAINT facts_user_id_conversation_id_source_seq_extractor_ordinal_key"
        )
        await connection.close()
    config = replace(CONFIG, lease_seconds=0.0001)
    walled = running(nursery, dsn, broker_url, config, workers=2, compare_and_set=compare_and_set)
    async with walled as (observer, _):
        for _ in range(40):
            await observer.say_something()
            await asyncio.sleep(0.01)
        outcome = await judge(observer)
    with capsys.disabled():
        sys.stdout.write(f"\n  {name}: {outcome}\n")
    assert outcome.right is right, str(outcome)
    assert right or outcome.twice, f"red, but not for what was switched off: {outcome}"
