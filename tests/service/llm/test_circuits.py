"""The circuits of a server, of its keys and of the vectors' model: however a call ends that tries, another may follow."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing

import pytest
from prometheus_client import REGISTRY

from memory.errors import EmbedderUnavailableError
from service.llm.breaker import LONGEST_REST, THRESHOLD
from service.llm.config import BackendConfig, Timeouts
from service.llm.embeddings import BackendEmbedder
from service.llm.errors import BackendBusyError, BackendError, BackendTimeoutError
from service.llm.overview import describe
from service.llm.pool import Backends
from service.llm.providers import KEY_REST, Provider
from service.llm.schemas import BackendView
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.service.llm.reading import HELLO, fixed

MODEL = "normal#circuits"
"""Of its own: calls that hang stay in the server's count of those it has at once."""
ASKED = 30.0
LONG = KEY_REST + LONGEST_REST + ASKED


def every(kind: type[BackendError]) -> Iterator[type[BackendError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from every(below)


class Time:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
async def pool(misbehaving: Misbehaving, time: Time) -> AsyncIterator[Backends]:
    config = BackendConfig(name="b", url=misbehaving.url, model=MODEL, timeouts=Timeouts(first_token=4))
    backends = Backends([config], clock=time, learn=False, patience=0.0)
    yield backends
    await backends.aclose()


@pytest.fixture
def provider(pool: Backends) -> Provider:
    return pool.providers[0]


async def ask(pool: Backends) -> str:
    opened = await pool.open_stream(fixed(HELLO), route="general")
    async with aclosing(opened.deltas) as deltas:
        return "".join([delta.text async for delta in deltas])


@pytest.mark.parametrize("opener", [BackendBusyError, BackendTimeoutError], ids=["key", "server"])
@pytest.mark.parametrize("retry_after", [None, ASKED])
@pytest.mark.parametrize("kind", sorted(set(every(BackendError)), key=str))
async def test_whatever_ends_the_call_that_tries_another_may_try_when_the_rest_is_over(
    kind: type[BackendError], retry_after: float | None, opener: type[BackendError], provider: Provider, time: Time
) -> None:
    (key,) = provider.keys
    for _ in range(THRESHOLD):
        provider.blame(key, opener("failing"))
    assert key.circuit.is_open or provider.circuit.is_open
    time.now += provider.wait()
    key.circuit.attempt()
    provider.circuit.attempt()
    error = kind("it ended")
    error.retry_after = retry_after
    provider.blame(key, error)
    if retry_after is not None:
        assert key.circuit.wait() >= retry_after
    time.now += LONG
    assert provider.key() is key
    assert not provider.circuit.is_open


@pytest.mark.parametrize(
    "quirk",
    [
        "429-seconds",
        "503",
        "500",
        "key-refused",
        "no-credit",
        "model-not-found",
        "overflow-llamacpp",
        "content-filter-empty",
        "string-error-in-200",
        "no-finish",
        "died-before-first-token",
        "slow-first-token",
        "wrong-endpoint",
    ],
)
async def test_a_backend_whose_try_ended_badly_is_asked_again(
    quirk: str, pool: Backends, provider: Provider, time: Time, misbehaving: Misbehaving
) -> None:
    misbehaving.override("503")  # what llama.cpp says while it loads: busy, without a word of when
    for _ in range(THRESHOLD):
        with pytest.raises(BackendBusyError):
            await ask(pool)
    assert describe(pool)[0]["state"] == "resting"
    time.now += provider.wait()
    asked = misbehaving.state()["counts"][MODEL]
    misbehaving.override(quirk)
    with pytest.raises(BackendError):
        await ask(pool)
    assert misbehaving.state()["counts"][MODEL] > asked
    time.now += LONG
    misbehaving.override("")
    assert await ask(pool) == REPLY
    assert describe(pool)[0]["state"] == "ready"


async def test_a_try_that_its_caller_leaves_is_no_try(
    pool: Backends, provider: Provider, time: Time, misbehaving: Misbehaving
) -> None:
    for _ in range(THRESHOLD):
        provider.blame(provider.keys[0], BackendBusyError("loading"))
    time.now += provider.wait()
    misbehaving.override("slow-first-token")
    leaving = asyncio.create_task(ask(pool))
    while not misbehaving.state()["counts"].get(MODEL) and not leaving.done():  # noqa: ASYNC110 - another process's
        await asyncio.sleep(0.01)
    leaving.cancel()
    await asyncio.gather(leaving, return_exceptions=True)
    misbehaving.override("")
    assert await ask(pool) == REPLY


async def test_operators_see_which_circuit_is_open_and_until_when(misbehaving: Misbehaving, time: Time) -> None:
    config = BackendConfig(
        name="b", url=misbehaving.url, model=MODEL, api_keys=("first-secret-key", "other-secret-key")
    )
    pool = Backends([config], clock=time, learn=False)
    try:
        (provider,) = pool.providers
        one, other = provider.keys
        for _ in range(THRESHOLD):
            provider.blame(one, BackendBusyError("loading"))
        time.now += 1.5
        seen = describe(pool)[0]
        assert (seen["state"], seen["retry_in"], seen["breaker"]["open"]) == ("ready", 0, False)
        assert REGISTRY.get_sample_value("rapport_backend_circuit_open", {"backend": "b"}) == 0
        shut = {"open": True, "tried": False, "failures_in_a_row": 3, "retry_in": 4}
        assert [(key["state"], key["retry_in"], key["breaker"]) for key in seen["keys"]] == [
            ("resting", 4, shut),
            ("ready", 0, {"open": False, "tried": False, "failures_in_a_row": 0, "retry_in": 0}),
        ]
        provider.blame(other, BackendBusyError("limited", retry_after=2.2))
        assert (describe(pool)[0]["state"], describe(pool)[0]["retry_in"]) == ("resting", 3)
        time.now += 3.5
        one.circuit.attempt()
        provider.blame(other, BackendBusyError("limited", retry_after=9.0))
        seen = describe(pool)[0]
        assert seen["state"] == "resting", "no call would be made now"
        assert REGISTRY.get_sample_value("rapport_backend_circuit_open", {"backend": "b"}) == 1
        assert [(key["state"], key["retry_in"]) for key in seen["keys"]] == [("tried", 0), ("resting", 9)]
        for _ in range(THRESHOLD):
            provider.blame(one, BackendTimeoutError("no first token"))
        assert describe(pool)[0]["breaker"] == {**shut, "retry_in": 5}
        BackendView.model_validate(describe(pool)[0])
    finally:
        await pool.aclose()


@pytest.mark.parametrize("model", ["overflow-once#half-open", "thinks-too-long"])
async def test_a_call_that_tries_may_be_made_once_more_in_another_form(
    model: str, misbehaving: Misbehaving, time: Time
) -> None:
    """One smaller prompt, or more room to think: the second call is the same try, and finds no circuit in its way."""
    pool = Backends([BackendConfig(name="b", url=misbehaving.url, model=model)], clock=time, learn=False, patience=0.0)
    (provider,) = pool.providers
    for _ in range(THRESHOLD):
        provider.blame(provider.keys[0], BackendBusyError("loading"))
    time.now += provider.wait()
    try:
        assert await ask(pool) == REPLY
        assert misbehaving.state()["counts"][model] == 2
        assert not provider.keys[0].circuit.failures
    finally:
        await pool.aclose()


@pytest.mark.parametrize("quirk", ["model-not-found", "key-refused", "overflow-llamacpp", "429", "500", "no-credit"])
async def test_vectors_are_asked_for_again_however_the_try_ended(
    quirk: str, misbehaving: Misbehaving, time: Time
) -> None:
    config = BackendConfig(name="b", url=misbehaving.url, model="normal", embedding_model="text-embedding-tiny")
    embedder = BackendEmbedder(config, 8, clock=time)
    try:
        for at, ending in enumerate(["500"] * THRESHOLD + [quirk]):
            misbehaving.override(ending)
            if at == THRESHOLD:
                assert embedder.is_resting
                time.now += LONGEST_REST
            with pytest.raises(EmbedderUnavailableError):
                await embedder.embed([f"question {at}"], question=True)
        time.now += LONGEST_REST
        misbehaving.override("")
        assert (await embedder.embed(["question 9"], question=True)).shape == (1, 8)
        assert not embedder.is_resting
    finally:
        await embedder.aclose()
