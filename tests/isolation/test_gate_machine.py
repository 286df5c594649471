"""The gate as a state machine: two instances, any order of grants, revocations, locks, turns, take-overs and deaths.

A model of a few lines says who is entitled at each moment; PostgreSQL must agree with it at every step. Redis has no
part in it, so that killing, wiping or rolling it back can't open anything.
"""

import asyncio
import os
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from memory import assurance, gates, leases, transcript, turns
from memory.errors import (
    AgeAssuranceRequiredError,
    RouteLockedError,
    TurnInProgressError,
)
from memory.gates import Gate
from memory.postgres import Database, PoolConfig
from memory.transcript import Owner
from memory.turns import NewTurn

GATE = Gate(("general", "mature"), {"mature": "mature"})
ROUTES = ("general", "mature")
EXAMPLES = int(os.environ.get("GATE_EXAMPLES", "25"))
instances = st.integers(0, 1)
routes = st.sampled_from(ROUTES)


class World:
    """Two pools on one loop, as two instances have them."""

    def __init__(self, url: str) -> None:
        self.loop = asyncio.new_event_loop()
        self.instances = [Database(PoolConfig(url, size=2, overflow=2)) for _ in range(2)]
        self.steps = self.turns = 0

    def run(self, work: Any) -> Any:
        return self.loop.run_until_complete(work)

    def close(self) -> None:
        for database in self.instances:
            self.run(database.close())
        self.loop.close()


class TheGate(RuleBasedStateMachine):
    world: ClassVar[World]

    def __init__(self) -> None:
        super().__init__()
        self.owner = Owner(uuid4(), "https://id.example", "alice")
        self.granted: set[str] = set()
        self.locked: dict[str, bool] = dict.fromkeys(ROUTES, False)
        self.conversations: dict[str, UUID] = {}
        self.running: dict[str, tuple[UUID, int]] = {}
        self.entitled_since: dict[str, bool] = {}

    @initialize()
    def talk(self) -> None:
        async def make() -> None:
            for route in ROUTES:
                async with self.world.instances[0].as_user(self.owner.user_id) as connection:
                    made = await transcript.create_conversation(connection, self.owner, uuid4(), route=route)
                self.conversations[route] = made.id

        self.world.run(make())

    def one_running(self, which: int) -> str:
        return sorted(self.running)[which % len(self.running)]

    def entitled(self, route: str) -> bool:
        return not self.locked[route] and (route == "general" or bool(self.granted))

    @rule(where=instances, lasting=st.booleans())
    def prove(self, where: int, lasting: bool) -> None:
        """An assurance that holds, or one that has run out already."""
        now, name = datetime.now(UTC), str(uuid4())
        until = now + (timedelta(days=1) if lasting else timedelta(seconds=-1))
        proof = assurance.Proof("document", "verifier", name, "1", now, until, "mature", 18)

        async def record() -> None:
            async with self.world.instances[where].as_user(self.owner.user_id) as connection:
                await assurance.record_proof(connection, self.owner, proof, date(2026, 1, 1))

        self.world.run(record())
        if lasting:
            self.granted.add(name)

    @rule(where=instances)
    def revoke(self, where: int) -> None:
        database = self.world.instances[where]
        found = self.world.run(assurance.revoke_assurances(database, self.owner.user_id, ["mature"], ["mature"]))
        assert found.assurances == len(self.granted)
        self.granted.clear()
        self.entitled_since["mature"] = False

    @rule(where=instances, route=routes, locked=st.booleans())
    def lock(self, where: int, route: str, locked: bool) -> None:
        async def change() -> None:
            async with self.world.instances[where].as_user(self.owner.user_id) as connection:
                reason = "user" if locked else None
                await transcript.set_lock(connection, self.owner.user_id, self.conversations[route], reason)

        self.world.run(change())
        self.locked[route] = locked
        self.entitled_since[route] = False  # even an unlocking ends what ran before

    @rule(where=instances, route=routes)
    def say(self, where: int, route: str) -> None:
        turn = NewTurn(self.owner.user_id, self.conversations[route], uuid4(), uuid4(), "hello", b"x")

        async def accept() -> Any:
            async with self.world.instances[where].as_user(self.owner.user_id) as connection:
                return await turns.accept(connection, turn, GATE, 60)

        self.world.turns += 1
        try:
            self.world.run(accept())
        except RouteLockedError:
            assert self.locked[route]
        except AgeAssuranceRequiredError:
            assert route == "mature"
            assert not self.granted
        except TurnInProgressError:
            assert route in self.running
        else:
            assert self.entitled(route)
            assert route not in self.running
            self.running[route] = (turn.turn_id, 1)
            self.entitled_since[route] = True

    @precondition(lambda self: self.running)
    @rule(where=instances, which=st.integers(0, 1))
    def take_over(self, where: int, which: int) -> None:
        """The writer dies; another instance claims the turn and asks the gate again."""
        route = self.one_running(which)
        turn_id, epoch = self.running[route]

        async def claim() -> bool:
            async with self.world.instances[where].system() as connection:
                await connection.execute(
                    "UPDATE turns SET lease_until = now() - interval '1 s' WHERE user_id = $1 AND id = $2",
                    self.owner.user_id,
                    turn_id,
                )
                (claimed,) = await turns.claim(connection, 60, 1, turn_id)
            assert claimed.epoch == epoch + 1
            async with self.world.instances[where].as_user(self.owner.user_id) as connection:
                return await gates.may_continue(connection, self.owner.user_id, turn_id, GATE)

        may = self.world.run(claim())
        self.running[route] = (turn_id, epoch + 1)
        # stricter than the running writer: it asks for the assurance as well as for the epoch
        assert may == (self.entitled_since[route] and self.entitled(route))

    @precondition(lambda self: self.running)
    @rule(where=instances, which=st.integers(0, 1))
    def end(self, where: int, which: int) -> None:
        route = self.one_running(which)
        turn_id, epoch = self.running.pop(route)

        async def fail() -> bool:
            async with self.world.instances[where].as_user(self.owner.user_id) as connection:
                return await turns.fail(connection, self.owner.user_id, turn_id, epoch, {}, "")

        assert self.world.run(fail())

    @invariant()
    def no_writer_goes_on_without_right(self) -> None:
        """What a writer is told at its next renewal, at every moment, on the other instance."""
        self.world.steps += 1
        if not self.running:
            return
        held = [(self.owner.user_id, turn_id, epoch, None) for turn_id, epoch in self.running.values()]

        async def renew() -> dict[UUID, bool]:
            async with self.world.instances[self.world.steps % 2].system() as connection:
                return {row.turn_id: row.gate_closed for row in await leases.renew(connection, held, 60)}

        closed = self.world.run(renew())
        for route, (turn_id, _) in self.running.items():
            assert closed[turn_id] == (not self.entitled_since[route]), route


def machine(world: World) -> type[RuleBasedStateMachine]:
    return type("TheGateOfThisRun", (TheGate,), {"world": world})


@pytest.mark.timeout(900)
def test_no_order_of_events_lets_a_word_through(database_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    world = World(database_url)
    options = settings(
        max_examples=EXAMPLES,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=not os.environ.get("GATE_EXAMPLES"),
    )
    try:
        run_state_machine_as_test(machine(world), settings=options)
    finally:
        world.close()
    with capsys.disabled():
        print(f"\n{world.steps:,} steps, {world.turns:,} turns asked for, no word without right")
    assert world.turns > EXAMPLES


MUTATIONS = {
    "a revocation that stops nothing": (assurance, "CLOSE", "deleted_at IS NULL", "false"),
    "a revoked assurance that counts": (turns, "ACCEPT", "a.revoked_at IS NULL AND ", ""),
    "an expired assurance that counts": (turns, "ACCEPT", "AND a.expires_at > now()", ""),
    "a take-over that asks for no epoch": (gates, "MAY_CONTINUE", "AND c.lock_epoch = t.lock_epoch", ""),
    "a renewal that asks for no epoch": (leases, "RENEW", "OR c.lock_epoch <> t.lock_epoch", ""),
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", MUTATIONS)
def test_the_machine_goes_red_without(name: str, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, constant, old, new = MUTATIONS[name]
    statement = getattr(module, constant)
    assert old in statement
    monkeypatch.setattr(module, constant, statement.replace(old, new))
    world = World(database_url)
    options = settings(
        max_examples=400,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
        report_multiple_bugs=False,
        database=None,
        # what is drawn is the same each time: of 400 examples by chance one run in a hundred found nothing
        derandomize=True,
    )
    try:
        with pytest.raises(AssertionError):
            run_state_machine_as_test(machine(world), settings=options)
    finally:
        world.close()
