"""One run: let clients talk, strike, let it settle, judge."""

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

from tests.faults import naive
from tests.faults.clients import Observer
from tests.faults.injection import Injector, plan_of
from tests.faults.verdict import DRAIN_SECONDS, Verdict, judge
from tests.faults.world import World

SETTLE_SECONDS = 100.0


@dataclass(frozen=True)
class Plan:
    """What one run does. The seed decides what strikes whom, and when, as far as a real machine lets it."""

    seed: int
    faults: dict[str, int]
    clients: int = 6
    words: int = 60
    restless: float = 0.25
    pause: tuple[float, float] = (0.1, 0.5)
    conversations: int = 2
    """Of each client; it says something in one after the other."""
    least: int = 0
    """Messages that are to be acknowledged before the end, however soon all faults have struck."""
    drain_seconds: float = DRAIN_SECONDS


@dataclass
class Outcome:
    plan: Plan
    done: Counter[str]
    verdict: Verdict
    seconds: float
    """From the first fault to the last."""
    answers: Counter[str]
    statuses: Counter[str]
    stalls: list[tuple[float, float]]
    acknowledge: list[float]

    @property
    def faults(self) -> int:
        return self.done.total()

    @property
    def short_of_plan(self) -> dict[str, int]:
        planned = self.plan.faults.items()
        return {name: count - self.done[name] for name, count in planned if self.done[name] < count}


async def run(world: World, plan: Plan, **processes: Any) -> Outcome:
    """Do it all once, in a world whose servers run; it is left as empty as it was."""
    chance = random.Random(plan.seed)
    observer = Observer(world, plan.seed, plan.words, plan.restless, plan.conversations)
    talking: asyncio.Task[None] | None = None
    try:
        await world.populate(**processes)
        talking = asyncio.create_task(observer.talk(plan.clients))
        while not observer.acknowledged:
            await asyncio.sleep(0.05)
            assert not talking.done(), talking.exception()
        injector = Injector(world, chance)
        began = time.monotonic()
        await injector.run(plan_of(plan.faults, chance), pause=plan.pause)
        seconds = time.monotonic() - began
        world.heal()
        while len(observer.acknowledged) < plan.least:  # noqa: ASYNC110  the book has no event to wait for
            await asyncio.sleep(0.05)
        observer.stopping = True
        async with asyncio.timeout(SETTLE_SECONDS):
            await talking
        judged = naive.judge if processes.get("prefix") else judge
        verdict = await judged(world, observer, plan.drain_seconds)
        acknowledge = [told.answered - told.began for told in observer.acknowledged]
        statuses = Counter(world.statuses)
        return Outcome(plan, injector.done, verdict, seconds, observer.answers, statuses, world.stalls(), acknowledge)
    finally:
        if talking is not None:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
        await world.depopulate()
