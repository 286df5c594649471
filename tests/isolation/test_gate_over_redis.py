"""The gate from outside: two instances, and a Redis that is killed, wiped and rolled back between all that happens.

tests/isolation/test_gate_machine.py asks PostgreSQL; this one reads streams. Whatever copy of anything Redis holds, has
lost, or has got back from yesterday: no word of a gated route reaches a reader who is not entitled at that moment, and
whoever is entitled is served. GATE_EXAMPLES sets how many stories there are.
"""

import asyncio
import itertools
import json
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import aiohttp
import pytest
import redis
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from service.dev.valkey import EmbeddedValkey
from tests.faults.clients import events
from tests.fixtures.service import LiveService

EXAMPLES = int(os.environ.get("GATE_EXAMPLES", "8"))
STEPS = 20
GRACE = 2.0
"""Seconds after the answer to a revocation in which its writers, wherever they are, must have stopped: they ask at every
third of a lease (0.5 s), and machines that run tests are slow."""
WORDS = {"style": "numbered", "words": 60, "word_delay": 0.05}
BACKENDS = json.dumps([{"name": "slow", "kind": "scripted", "script": WORDS, "routes": ["general", "mature"]}])
STRIKES = ("kill", "wipe", "snapshot", "roll back")
instances = st.integers(0, 1)


@dataclass
class World:
    service: LiveService
    valkey: EmbeddedValkey
    counts: Counter[str] = field(default_factory=Counter)
    strikes: Iterator[str] = field(default_factory=lambda: itertools.cycle(STRIKES))
    loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self.session: aiohttp.ClientSession = self.run(self._opened())
        self.saved = self.valkey.home.parent / "saved"

    @staticmethod
    async def _opened() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))

    def run(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(60)

    def close(self) -> None:
        self.run(self.session.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()

    def strike(self) -> None:
        """What may happen to Redis, each in its turn."""
        kind = next(self.strikes)
        self.counts[kind] += 1
        if kind == "wipe":
            with redis.Redis.from_url(self.valkey.url) as client:
                client.flushall()
            return
        if kind == "snapshot":
            with redis.Redis.from_url(self.valkey.url) as client:
                client.config_set("appendfsync", "always")
            shutil.rmtree(self.saved, ignore_errors=True)
            shutil.copytree(self.valkey.home / "appendonlydir", self.saved)
            return
        self.valkey.kill()
        if kind == "roll back":
            kept = self.valkey.home / "appendonlydir"
            owner = kept.stat()
            shutil.rmtree(kept)
            shutil.copytree(self.saved, kept)
            for path in (kept, *kept.iterdir()):
                os.chown(path, owner.st_uid, owner.st_gid)
        self.valkey.start()


def without_right(seen: list[tuple[float, str]], closed: list[list[float]]) -> list[str]:
    """What was read while the door had been closed for longer than it takes."""
    return [
        f"{text!r}, {moment - since:.2f} s after the right to it had ended"
        for moment, text in seen
        for since, until in closed
        if since + GRACE < moment < until
    ]


def test_what_was_read_too_late_is_found() -> None:
    assert without_right([(2.5, "a"), (5.0, "b"), (9.5, "c")], [[1.0, 9.0]]) == [
        "'b', 4.00 s after the right to it had ended"
    ]


class TheDoor(RuleBasedStateMachine):
    world: ClassVar[World]

    @initialize()
    def talk(self) -> None:
        self.name = f"alice-{uuid4().hex[:8]}"
        self.person = self.world.service.headers(self.name)
        token = self.world.service.token("root", roles=("user", "operator"))
        self.operator = {"Authorization": f"Bearer {token}"}
        self.named = {"issuer": "rapport", "subject": self.name}
        self.closed: list[list[float]] = [[0.0, float("inf")]]
        self.seen: list[tuple[float, str]] = []
        self.readers: list[Any] = []
        self.turns: list[str] = []
        status, made = self.ask(0, "POST", "/v1/conversations", self.person, {"route": "mature"})
        assert status == 201
        self.id = made["id"]
        self.entitled = False
        self.prove(0)  # every story begins with a reply on its way
        self.say(1)

    def ask(self, where: int, method: str, path: str, headers: dict[str, str], body: Any) -> tuple[int, Any]:
        async def asked() -> tuple[int, Any]:
            url = f"{self.world.service.processes[where].url}{path}"
            async with self.world.session.request(method, url, headers=headers, json=body) as answer:
                return answer.status, await answer.json(content_type=None)

        found: tuple[int, Any] = self.world.run(asked())
        return found

    @rule(where=instances)
    def prove(self, where: int) -> None:
        self.open_again()
        status, _ = self.ask(
            where, "POST", "/v1/operator/age-assurances", self.operator, self.named | {"level": "mature"}
        )
        assert status == 201
        self.entitled = True

    @rule(where=instances)
    def revoke(self, where: int) -> None:
        status, _ = self.ask(where, "POST", "/v1/operator/age-assurances/revoke", self.operator, self.named)
        assert status == 200
        self.shut()

    @rule()
    def strike(self) -> None:
        self.world.strike()

    @rule(where=instances)
    def say(self, where: int) -> None:
        status, code = self.stream(where, "POST", f"/v1/conversations/{self.id}/turns", {"content": "Count"})
        self.world.counts["turns asked for"] += 1
        if status == 200:
            assert self.entitled
            self.world.counts["turns"] += 1
        elif self.entitled:
            assert (status, code) == (409, "turn_in_progress")
        else:
            assert (status, code) == (403, "age_assurance_required")

    @rule(where=instances, which=st.integers(0, 5))
    def read_along(self, where: int, which: int) -> None:
        """A reader who comes later, on either instance, also to a reply of long ago."""
        if not self.turns:
            return
        turn = self.turns[which % len(self.turns)]
        status, code = self.stream(where, "GET", f"/v1/conversations/{self.id}/turns/{turn}/stream", None)
        self.world.counts["readers"] += 1
        assert (status, code) == ((200, "") if self.entitled else (403, "age_assurance_required"))

    @rule(seconds=st.sampled_from([0.1, 0.6]))
    def wait(self, seconds: float) -> None:
        time.sleep(seconds)

    def stream(self, where: int, method: str, path: str, body: Any) -> tuple[int, str]:
        """Begin to read; the reading goes on in the background."""
        url = f"{self.world.service.processes[where].url}{path}"

        async def begin() -> tuple[int, str]:
            answer = await self.world.session.request(method, url, headers=self.person, json=body)
            if answer.status != 200:
                return answer.status, (await answer.json(content_type=None))["code"]
            stream = events(answer)
            _, _, accepted = await anext(stream)
            if accepted["turn_id"] not in self.turns:
                self.turns.append(accepted["turn_id"])
            self.readers.append(asyncio.create_task(self.read(answer, stream)))
            return 200, ""

        found: tuple[int, str] = self.world.run(begin())
        return found

    async def read(self, answer: aiohttp.ClientResponse, stream: Any) -> None:
        try:
            async for _, kind, data in stream:
                if kind in ("reply.delta", "turn.rebased") and data["text"]:
                    self.seen.append((time.monotonic(), data["text"][-20:]))
                if kind in ("turn.completed", "turn.failed"):
                    return
        finally:
            answer.close()

    def shut(self) -> None:
        self.entitled = False
        if self.closed[-1][1] != float("inf"):
            self.closed.append([time.monotonic(), float("inf")])

    def open_again(self) -> None:
        if self.closed[-1][1] == float("inf"):
            self.closed[-1][1] = time.monotonic()

    def teardown(self) -> None:
        if not hasattr(self, "readers"):
            return
        self.ask(0, "POST", "/v1/operator/age-assurances/revoke", self.operator, self.named)
        self.shut()

        async def all_read() -> None:
            await asyncio.wait_for(asyncio.gather(*self.readers), 30)

        self.world.run(all_read())
        self.world.counts["pieces read"] += len(self.seen)
        assert without_right(self.seen, self.closed) == []


@pytest.fixture
def world(service_factory: Callable[..., LiveService], durable_valkey: EmbeddedValkey) -> Iterator[World]:
    service = service_factory(REDIS_URL=durable_valkey.url, LLM_BACKENDS=BACKENDS)
    for _ in range(2):
        service.start()
    made = World(service, durable_valkey)
    yield made
    made.close()


@pytest.mark.timeout(1800)
def test_no_word_reaches_who_is_not_entitled_whatever_redis_remembers(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    options = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=not os.environ.get("GATE_EXAMPLES"),
        database=None,
    )
    run_state_machine_as_test(type("TheDoorOfThisRun", (TheDoor,), {"world": world}), settings=options)
    with capsys.disabled():
        print(f"\n{dict(world.counts)}: no word without right")
    assert min(world.counts[kind] for kind in STRIKES) >= 1
    assert world.counts["turns"] >= 3
    assert world.counts["pieces read"] >= 20


def test_saved_is_another_place(durable_valkey: EmbeddedValkey) -> None:
    """A roll-back really brings back what was wiped."""
    world = World.__new__(World)
    world.valkey, world.counts, world.saved = durable_valkey, Counter(), Path(durable_valkey.home.parent / "saved")
    with redis.Redis.from_url(durable_valkey.url) as client:
        client.config_set("appendfsync", "always")
        client.set("yesterday", "1")
    for kind in ("snapshot", "wipe", "roll back"):
        world.strikes = iter([kind])
        world.strike()
    with redis.Redis.from_url(durable_valkey.url) as client:
        assert client.get("yesterday") == b"1"
