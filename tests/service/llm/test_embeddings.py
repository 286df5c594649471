import asyncio
from collections.abc import AsyncIterator, Callable

import numpy as np
import pytest

from memory.ports import Embedder
from service.llm.config import BackendConfig
from service.llm.embeddings import BackendEmbedder, WrongWidthError
from service.llm.errors import BackendError, BackendInterruptedError, BackendRefusedError, ModelNotFoundError
from tests.misbehaving.process import Misbehaving

Make = Callable[..., BackendEmbedder]


@pytest.fixture
async def embedder_for(misbehaving: Misbehaving) -> AsyncIterator[Make]:
    made: list[BackendEmbedder] = []

    def make(model: str = "text-embedding-tiny", *, width: int = 8, url: str = "") -> BackendEmbedder:
        config = BackendConfig(name="b", url=url or misbehaving.url, model="normal", embedding_model=model)
        made.append(BackendEmbedder(config, width, pause=lambda _attempt: 0.01))
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
    await asyncio.gather(*(embedder.embed([f"question {number}"]) for number in range(100)))
    await asyncio.gather(*(embedder.embed([f"question {number % 50}"]) for number in range(100)))
    calls = [request["embeddings"] for request in misbehaving.state()["requests"]]
    assert [len(call["input"]) for call in calls] == [64, 36, 50]


async def test_texts_are_sent_as_texts(embedder_for: Make, misbehaving: Misbehaving) -> None:
    """lmstudio#692: token-id arrays are refused."""
    await embedder_for().embed(["hello", ""])
    (call,) = [request["embeddings"] for request in misbehaving.state()["requests"]]
    assert call == {"model": "text-embedding-tiny", "input": ["hello", " "]}


async def test_another_width_is_refused_with_what_to_do(embedder_for: Make) -> None:
    with pytest.raises(WrongWidthError, match=r"9 numbers.*holds 8"):
        await embedder_for("wrong-dimensions").check()
    with pytest.raises(WrongWidthError):
        await embedder_for(width=384).embed(["hello"])


async def test_failures_reach_everyone_who_waits(embedder_for: Make) -> None:
    with pytest.raises(ModelNotFoundError):
        await embedder_for("llm-typed-embedder").embed(["hello"])
    with pytest.raises(BackendInterruptedError):
        await embedder_for("one-missing").embed(["a", "b"])
    gone = embedder_for(url="http://127.0.0.1:9/v1")
    answers = await asyncio.gather(gone.embed(["a"]), gone.embed(["b"]), return_exceptions=True)
    assert all(isinstance(answer, BackendError) for answer in answers)


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
