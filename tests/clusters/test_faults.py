"""The short faults run on clusters of the same engines: whatever is killed there, nothing is lost or done twice."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.clusters.postgreses import needed
from tests.clusters.worlds import TOPOLOGIES, ValkeysWorld
from tests.faults.run import Outcome, Plan, run
from tests.faults.test_faults import SEED, SHORT, tell
from tests.faults.world import opened_world

SMOKE = {
    "cluster": {"kill valkey": 1, "kill api": 2, "redis lost answer": 1},
    "sentinel": {"kill valkey": 1, "kill api": 2, "redis lost answer": 1},
    "replica": {"kill replica": 1, "late replica": 2, "kill api": 2},
    "pgbouncer": {"restart pgbouncer": 2, "kill api": 2, "kill worker": 1, "postgres lost answer": 1},
}


async def outcome_of(topology: str, plan: Plan) -> tuple[Outcome, int]:
    """What a run on it found, and how often another server took over."""
    if topology == "pgbouncer":
        needed()
    with TemporaryDirectory(prefix="rapport-clusters-") as home:
        async with opened_world(Path(home), kind=TOPOLOGIES[topology][0]) as world:
            outcome = await run(world, plan)
            return outcome, world.failovers if isinstance(world, ValkeysWorld) else 0


def check(outcome: Outcome, failovers: int) -> None:
    tell(outcome)
    assert not outcome.short_of_plan
    assert not outcome.verdict.broken, outcome.verdict.summary()
    print(f"{failovers} fail-overs")


@pytest.mark.faults
@pytest.mark.timeout(180)
@pytest.mark.parametrize("topology", SMOKE)
async def test_nothing_is_lost_when_a_part_of_it_dies(topology: str) -> None:
    outcome, failovers = await outcome_of(topology, Plan(SEED, SMOKE[topology], clients=4, words=40))
    check(outcome, failovers)
    assert failovers == SMOKE[topology].get("kill valkey", 0)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(600)
@pytest.mark.parametrize("topology", TOPOLOGIES)
async def test_the_short_run_passes(topology: str) -> None:
    check(*await outcome_of(topology, Plan(SEED, {**SHORT, **TOPOLOGIES[topology][1]}, drain_seconds=300.0)))
