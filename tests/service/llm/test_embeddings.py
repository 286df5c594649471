"""Vectors by /v1/embeddings, against a real server process."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from memory.errors import EmbedderUnavailableError
from memory.models import model_of
from memory.ports import Embedder
from memory.postgres import Database, PoolConfig
from service.llm.breaker import FIRST_REST
from service.llm.config import BackendConfig
from service.llm.embeddings import BackendEmbedder, WrongWidthError
from service.llm.errors import (
    BackendInterruptedError,
    BackendRefusedError,
    BudgetSpentError,
    ModelNotFoundError,
    QueueTimeoutError,
)
from service.llm.residence import LOOK_EVERY
from service.llm.spend import PostgresSpend
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.service.llm.conftest import MakeBackend
from tests.service.llm.reading import HELLO, read

Make = Callable[..., BackendEmbedder]


@pytest.fixture
async def embedder_for(misbehaving: Misbehaving) -> AsyncIterator[Make]:
    made: list[BackendEmbedder] = []

    def make(
        model: str = "text-embedding-tiny",
        *,
        width: int | None = 8,
        url: str = "",
        clock: Callable[[], float] = time.monotonic,
        **fields: Any,
    ) -> BackendEmbedder:
        config = BackendConfig(name="b", url=url or misbehaving.url, model="normal", embedding_model=model, **fields)
        made.append(BackendEmbedder(config, width, pause=lambda _attempt: 0.01, clock=clock))
        return made[-1]

    yield make
    for embedder in made:
        await embedder.aclose()


async def test_vectors_are_unit_rows_in_the_order_of_the_texts(embedder_for: Make) -> None:
    embedder: Embedder = embedder_for("shuffled")
    texts = [f"text {number}" for number in range(7)]
    together = await embedder.embed(texts)
    assert together.shape == (7, 8)
    assert together.dtype == np.float32
    assert np.allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    for number, text in enumerate(texts):
        assert np.allclose((await embedder.embed([text]))[0], together[number])
    assert (await embedder.embed([])).shape == (0, 8)


async def test_a_hundred_recalls_at_once_cost_a_few_calls(embedder_for: Make, misbehaving: Misbehaving) -> None:
    embedder = embedder_for()
    await asyncio.gather(*(embedder.embed([f"question {number}"], question=True) for number in range(100)))
    await asyncio.gather(*(embedder.embed([f"other {number % 50}"], question=True) for number in range(100)))
    calls = [request["embeddings"] for request in misbehaving.state()["requests"]]
    assert [len(call["input"]) for call in calls] == [64, 36, 50]


async def test_texts_are_sent_as_texts(embedder_for: Make, misbehaving: Misbehaving) -> None:
    """lmstudio#692: token-id arrays are refused."""
    await embedder_for().embed(["hello", ""])
    (call,) = [request["embeddings"] for request in misbehaving.state()["requests"]]
    assert call == {"model": "text-embedding-tiny", "input": ["hello", " "]}


async def test_another_width_is_refused_with_what_to_do(embedder_for: Make) -> None:
    with pytest.raises(WrongWidthError, match=r"9 numbers.*have 8"):
        await embedder_for("wrong-dimensions").check()
    with pytest.raises(EmbedderUnavailableError, match="384"):
        await embedder_for(width=384).embed(["hello"])


async def test_failures_reach_everyone_who_waits(embedder_for: Make) -> None:
    for model, cause in (("llm-typed-embedder", ModelNotFoundError), ("one-missing", BackendInterruptedError)):
        with pytest.raises(EmbedderUnavailableError) as raised:
            await embedder_for(model).embed(["a", "b"])
        assert type(raised.value.__cause__) is cause
    gone = embedder_for(url="http://127.0.0.1:9/v1")
    answers = await asyncio.gather(gone.embed(["a"]), gone.embed(["b"]), return_exceptions=True)
    assert all(isinstance(answer, EmbedderUnavailableError) for answer in answers)


async def test_an_embedding_model_is_loaded_by_name_and_ends_no_reply(
    embedder_for: Make, backend_for: MakeBackend, misbehaving: Misbehaving
) -> None:
    """lmstudio#671, #1796: asked for its vectors, it is loaded just in time, and the chat model unloaded for it."""
    embedder = embedder_for("text-embedding-asleep")
    reading = asyncio.create_task(read(backend_for("jit-evict").stream(HELLO)))
    async with asyncio.timeout(30):
        while not misbehaving.state()["counts"].get("jit-evict"):  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.01)
    await asyncio.gather(embedder.embed(["Who am I?"], question=True), embedder.embed(["a line"]))
    text, _, last = await reading
    assert (text.rstrip(), last.finish_reason) == (REPLY, "stop")
    seen = misbehaving.state()
    assert seen["copies"] == {"text-embedding-asleep": 1}
    assert [next(iter(request)) for request in seen["requests"]][1:] == ["load", "embeddings", "embeddings"]


async def test_a_load_that_takes_long_is_not_waited_for_and_not_begun_again(
    embedder_for: Make, misbehaving: Misbehaving
) -> None:
    embedder = embedder_for("text-embedding-asleep")
    with pytest.raises(QueueTimeoutError):
        await embedder._residence.ensured(0.001)
    assert (await embedder.embed(["a line"])).shape == (1, 8)
    assert not embedder.is_resting
    assert misbehaving.state()["copies"] == {"text-embedding-asleep": 1}


async def test_a_model_that_was_unloaded_since_is_loaded_by_name_again(
    embedder_for: Make, misbehaving: Misbehaving
) -> None:
    now = [0.0]
    embedder = embedder_for("text-embedding-asleep", clock=lambda: now[0])
    await embedder.embed(["a line"])
    misbehaving.reset()  # which unloads it
    now[0] += LOOK_EVERY
    await embedder.embed(["another line"])
    assert [next(iter(request)) for request in misbehaving.state()["requests"]] == ["load", "embeddings"]


async def test_a_question_overtakes_bulk_work(embedder_for: Make, misbehaving: Misbehaving) -> None:
    embedder = embedder_for()
    bulk = asyncio.create_task(embedder.embed([f"line {number}" for number in range(1280)]))
    while not embedder.calls:  # noqa: ASYNC110  the embedder has no event for it
        await asyncio.sleep(0.001)
    await embedder.embed(["Who am I?"], question=True)
    assert not bulk.done()
    await bulk
    sizes = [len(request["embeddings"]["input"]) for request in misbehaving.state()["requests"]]
    assert sorted(sizes) == [1, *[64] * 20]
    assert sizes.index(1) < 10, "it waited for more than half of the bulk work"


async def test_a_server_that_fails_is_left_alone_and_asked_again(embedder_for: Make, misbehaving: Misbehaving) -> None:
    now = [0.0]
    embedder = embedder_for(clock=lambda: now[0])
    misbehaving.override("500")
    for number in range(5):
        with pytest.raises(EmbedderUnavailableError):
            await embedder.embed([f"question {number}"], question=True)
    assert misbehaving.state()["counts"]["embeddings 500"] == 3
    assert embedder.is_resting
    misbehaving.override("")
    now[0] += FIRST_REST
    assert (await embedder.embed(["question 9"])).shape == (1, 8)
    assert not embedder.is_resting


async def test_bulk_work_is_tried_again(embedder_for: Make) -> None:
    assert (await embedder_for("429-once").embed(["a", "b"])).shape == (2, 8)


async def test_a_text_that_is_too_long_is_cut_and_so_are_those_after_it(
    embedder_for: Make, misbehaving: Misbehaving
) -> None:
    embedder = embedder_for("input-too-large")
    long = "word " * 2000
    assert (await embedder.embed([long, "short"])).shape == (2, 8)
    assert (await embedder.embed([long + "again"])).shape == (1, 8)
    lengths = [max(map(len, request["embeddings"]["input"])) for request in misbehaving.state()["requests"]]
    assert lengths == [6000, 3000, 1500, 1500]


async def test_one_refused_text_does_not_cost_the_others_their_vectors(embedder_for: Make) -> None:
    embedder = embedder_for("one-text-refused")
    with pytest.raises(EmbedderUnavailableError):
        await embedder.embed(["a", "b", "c", "bad", "d"])
    one, two = await asyncio.gather(embedder.embed(["a", "b", "c", "d"]), embedder.embed(["e", "f"]))
    assert (len(one), len(two)) == (4, 2)


async def test_a_key_that_is_refused_gives_way_to_the_next(embedder_for: Make) -> None:
    assert (await embedder_for("key-bad-refused", api_keys=("bad", "good")).embed(["a"])).shape == (1, 8)


async def test_recent_texts_are_not_asked_again(embedder_for: Make, misbehaving: Misbehaving) -> None:
    embedder = embedder_for()
    first = await embedder.embed(["the same words"])
    assert np.array_equal(await embedder.embed(["the same words"]), first)
    assert len(misbehaving.state()["requests"]) == 1


async def test_shorter_vectors_are_asked_for_by_name(embedder_for: Make, misbehaving: Misbehaving) -> None:
    embedder = embedder_for("text-embedding-3-small@384", width=None)
    assert (await embedder.embed(["hello"])).shape == (1, 384)
    assert (embedder.name, embedder.dimensions) == ("text-embedding-3-small@384", 384)
    (call,) = [request["embeddings"] for request in misbehaving.state()["requests"]]
    assert call == {"model": "text-embedding-3-small", "input": ["hello"], "dimensions": 384}


async def test_the_first_answer_tells_the_width_and_vectors_know_their_model(embedder_for: Make) -> None:
    embedder = embedder_for("shuffled", width=None)
    assert embedder.dimensions == 0
    await embedder.check()
    assert embedder.dimensions == 8
    assert model_of((await embedder.embed(["a", "b"]))[1]) == "shuffled"
    assert model_of((await embedder.embed(["a"]))[0]) == "shuffled"


async def test_one_who_stops_waiting_does_not_disturb_the_others(embedder_for: Make) -> None:
    embedder = embedder_for()
    leaving = asyncio.create_task(embedder.embed(["a"]))
    staying = asyncio.create_task(embedder.embed(["b"]))
    await asyncio.sleep(0)
    leaving.cancel()
    assert (await staying).shape == (1, 8)
    assert (await embedder.embed(["c"])).shape == (1, 8)


async def test_without_a_model_there_is_no_embedder(misbehaving: Misbehaving) -> None:
    with pytest.raises(BackendRefusedError):
        BackendEmbedder(BackendConfig(name="b", url=misbehaving.url), 8)


def priced(embedder_for: Make, **prices: float) -> BackendEmbedder:
    return embedder_for(prices={"embedding": 1_000_000, **prices})  # the misbehaving server counts one token a call


async def test_vectors_count_towards_the_budget_of_their_backend(embedder_for: Make, misbehaving: Misbehaving) -> None:
    embedder = priced(embedder_for, daily_budget=1.0)
    await embedder.embed(["How many tokens has a text that nobody counted so far?"])
    assert embedder.is_spent_up
    with pytest.raises(EmbedderUnavailableError) as raised:
        await embedder.embed(["And who pays for another one?"], question=True)
    assert isinstance(raised.value.__cause__, BudgetSpentError)
    began = time.monotonic()
    with pytest.raises(EmbedderUnavailableError):
        await embedder.embed(["Nor is bulk work waited for until midnight"])
    assert time.monotonic() - began < 10
    assert len(misbehaving.state()["requests"]) == 1
    # what is known already costs nothing
    await embedder.embed(["How many tokens has a text that nobody counted so far?"])


async def test_what_others_spent_at_a_backend_counts_for_its_vectors_too(embedder_for: Make, database_url: str) -> None:
    database = Database(PoolConfig(database_url, 1, 2))
    try:
        one, other = priced(embedder_for, daily_budget=1.0), priced(embedder_for, daily_budget=1.0)
        for embedder in (one, other):
            embedder._ledger._shared_by = PostgresSpend(database)
        await one.embed(["How many tokens has a text that nobody counted so far?"])
        await one.aclose()  # what it spent is told at the latest when it goes
        with pytest.raises(EmbedderUnavailableError) as raised:
            await other.embed(["And this one?"])
        assert isinstance(raised.value.__cause__, BudgetSpentError)
        await other.aclose()
    finally:
        await database.close()


async def test_without_a_price_of_their_own_vectors_cost_what_a_prompt_does(embedder_for: Make) -> None:
    assert priced(embedder_for, embedding=0.0, prompt=7.0, daily_budget=0.001).is_spent_up is False
    embedder = embedder_for(prices={"prompt": 1_000_000, "daily_budget": 1.0})
    await embedder.embed(["How many tokens has a text that nobody counted so far?"])
    assert embedder.is_spent_up
    free = embedder_for(prices={"embedding": 0.0, "prompt": 1_000_000, "daily_budget": 1.0})
    for number in range(3):
        await free.embed([f"How many tokens has text number {number} that nobody counted so far?"])
    assert not free.is_spent_up
