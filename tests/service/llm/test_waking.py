"""One request alone wakes a model that loads on demand, and nobody waits longer for it than he must."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.llm import providers
from service.llm.config import BackendConfig
from service.llm.errors import BackendError
from service.llm.pool import Backends
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.service.llm.reading import HELLO, fixed

LONG = 30.0
"""Seconds, much less than a first token may take (120) and a silence (60), which is what a turn must not wait for."""
Cold = Callable[..., Backends]


@pytest.fixture
async def cold(misbehaving: Misbehaving) -> AsyncIterator[Cold]:
    """Return a maker of pools of this machine's servers, whose models nobody has asked yet."""
    made: list[Backends] = []

    def make(*models: str, clock: Callable[[], float] | None = None, **options: Any) -> Backends:
        fields = options.pop("fields", {})
        configs = [
            BackendConfig(name=model.partition("#")[0], url=misbehaving.url, model=model, **fields) for model in models
        ]
        timed = {"clock": clock} if clock is not None else {}
        made.append(Backends(configs, **{"learn": False, "patience": 0.0, **timed, **options}))
        return made[-1]

    yield make
    for pool in made:
        await pool.aclose()


async def ask(pool: Backends, places: list[int] | None = None) -> tuple[str, str]:
    opened = await pool.open_stream(
        fixed(HELLO), route="general", on_position=places.append if places is not None else None
    )
    async with aclosing(opened.deltas) as deltas:
        return opened.target.backend, "".join([delta.text async for delta in deltas])


async def until(reached: Callable[[], bool], what: str) -> None:
    end = asyncio.get_running_loop().time() + LONG
    while not reached():
        assert asyncio.get_running_loop().time() < end, what
        await asyncio.sleep(0.02)


@asynccontextmanager
async def hanging(*tasks: asyncio.Task[Any]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_turn_does_not_wait_for_the_end_of_the_probe_that_woke_the_model(
    cold: Cold, misbehaving: Misbehaving, tmp_path: Path
) -> None:
    pool = cold("stall-mid-stream#probed", learn=True, home=tmp_path)  # two words, then silence for a minute
    await until(lambda: misbehaving.state()["counts"].get("stall-mid-stream#probed") == 1, "it was not probed")
    async with asyncio.timeout(LONG):
        opened = await pool.open_stream(fixed(HELLO), route="general")
    await opened.deltas.aclose()
    assert misbehaving.state()["most_at_once"]["stall-mid-stream#probed"] == 2


async def test_a_turn_that_waits_for_a_model_to_be_woken_fails_over_and_reads_that_it_is_next(
    cold: Cold, misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "TOLD_AFTER", 0.05)
    pool = cold("slow-first-byte#woken", "normal", fields={"queue_patience": 0.5})
    first = asyncio.create_task(ask(pool))
    async with hanging(first):
        await until(lambda: misbehaving.state()["counts"].get("slow-first-byte#woken") == 1, "nobody wakes it")
        places: list[int] = []
        async with asyncio.timeout(LONG):
            assert await ask(pool, places) == ("normal", REPLY)
        assert places == [1]
        assert misbehaving.state()["counts"]["slow-first-byte#woken"] == 1
        hung = pool.providers[0]
        assert not hung.circuit.failures
        assert not hung.keys[0].circuit.failures, "the server was not asked, and is not to blame"
        assert hung.permits.in_use == 1


async def test_a_model_in_use_needs_no_waking(cold: Cold, misbehaving: Misbehaving) -> None:
    now = [0.0]
    pool = cold("normal#in-use", clock=lambda: now[0])
    for _ in range(2):
        assert await ask(pool) == ("normal", REPLY)
        now[0] += providers.STAYS_LOADED * 0.9
    misbehaving.override("slow-first-byte")
    async with hanging(*(asyncio.create_task(ask(pool)) for _ in range(3))):
        await until(lambda: misbehaving.state()["counts"]["normal#in-use"] == 5, "they queue behind one first token")


async def test_whoever_fails_to_wake_a_model_leaves_it_to_the_next(cold: Cold, misbehaving: Misbehaving) -> None:
    pool = cold("normal#left")
    misbehaving.override("slow-first-byte")
    first = asyncio.create_task(ask(pool))
    await until(lambda: misbehaving.state()["counts"].get("normal#left") == 1, "nobody wakes it")
    second = asyncio.create_task(ask(pool))
    async with hanging(first, second):
        await until(lambda: pool.providers[0].permits.in_use == 2, "the second doesn't wait for the first")
        misbehaving.override("")
        first.cancel()
        async with asyncio.timeout(LONG):
            assert await second == ("normal", REPLY)
    misbehaving.override("500")
    with pytest.raises(BackendError):
        await ask(pool)
    assert not pool.providers[0].waking.locked()
