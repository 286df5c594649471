"""Nothing acknowledged is lost, repeated or done twice, whatever dies; and the harness notices what would be."""

import os
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import pytest_asyncio

from tests.faults.run import Outcome, Plan, run
from tests.faults.world import World, opened_world

pytestmark = [pytest.mark.faults, pytest.mark.timeout(400), pytest.mark.asyncio(loop_scope="module")]

SEED = 20261122
SHORT = {
    "kill api": 8,
    "kill worker": 3,
    "kill scheduler": 1,
    "kill valkey": 2,
    "wipe valkey": 2,
    "roll valkey back": 1,
    "kill postgres backend": 1,
    "stop api": 1,
    "restart api": 1,
    "redis cut": 1,
    "redis lost answer": 2,
    "redis black hole": 1,
    "postgres cut": 1,
    "postgres lost answer": 2,
    "client cut": 2,
    "client lost answer": 2,
    "upstream cut": 1,
    "upstream garbage": 1,
    "upstream 500": 1,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def world() -> AsyncIterator[World]:
    with TemporaryDirectory(prefix="rapport-faults-") as home:
        async with opened_world(Path(home)) as world:
            yield world


def tell(outcome: Outcome) -> None:
    verdict = outcome.verdict
    print(
        f"\nseed {outcome.plan.seed}: {outcome.faults} faults in {outcome.seconds:.0f} s, {verdict.acknowledged} messages "
        f"acknowledged, {verdict.replies_taken_over} replies taken over, {verdict.zombies} zombie writes refused, "
        f"drained in {verdict.drained or float('nan'):.1f} s: {verdict.summary()}"
    )


OUTSIDE = {"kill runner": 4, "kill api": 1, "kill worker": 1, "upstream hang": 1, "upstream 429": 1}
"""Where replies are written by processes of their own."""
CHANCE = int(os.environ.get("FAULTS_SEED") or int(time.time()) % 1_000_000)
RUNS: dict[str, tuple[int, dict[str, int], dict[str, int]]] = {
    "fixed": (SEED, SHORT, {}),
    "random": (CHANCE, dict.fromkeys(SHORT, 1), {}),
    "runners": (SEED, OUTSIDE, {"runners": 2}),
}


@pytest.mark.parametrize("name", RUNS)
async def test_nothing_is_lost_repeated_or_done_twice(world: World, name: str) -> None:
    seed, faults, processes = RUNS[name]
    print(f"\nseed {seed}")  # also of a run that breaks off
    outcome = await run(world, Plan(seed, faults, pause=(0.05, 0.3)), **processes)
    tell(outcome)
    assert not outcome.short_of_plan
    assert not outcome.verdict.broken, outcome.verdict.summary()


# what is switched off, the faults that it protects from, and what is seen without it
SWITCHES = {
    "log-compare-and-set": ({"wipe valkey": 24}, {"repeated", "lost"}),
    "commit-epoch": ({"sleepwalker": 3}, {"twice"}),
    "unique-message": ({"client lost answer": 5}, {"twice"}),
    "outbox": ({"lose the queue": 3}, {"unlearnt"}),
    "watermark": ({"kill worker": 8}, {"twice"}),
}


@pytest.mark.parametrize("switch", SWITCHES)
async def test_the_harness_goes_red_without(world: World, switch: str) -> None:
    faults, seen = SWITCHES[switch]
    # in one conversation a new message comes while the last one is being learnt from; in many, a lost wake-up stays lost
    conversations, least = (1, 30) if switch == "watermark" else (4, 0)
    plan = Plan(SEED, faults, words=15, restless=0.6, pause=(0.1, 0.3), drain_seconds=6.0)
    plan = replace(plan, conversations=conversations, least=least)
    outcome = await run(world, plan, switch=switch, workers=2)
    tell(outcome)
    assert not outcome.short_of_plan
    assert seen & outcome.verdict.broken.keys(), f"{switch} is off, and nobody notices"
