"""What every embedder promises, kept by the real model, the one that remembers, word vectors, and a server."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from memory import embedders
from memory.embedders import ENDS, EmbedderConfig, MiniLmEmbedder, MiniLmModel
from memory.errors import EmbedderBusyError, EmbedderUnavailableError
from memory.ports import Embedder, Vectors
from memory.word_embedder import WordEmbedder
from service.bench.kept_vectors import KeptVectors
from service.llm.config import BackendConfig
from service.llm.embeddings import BackendEmbedder
from tests.misbehaving.process import Misbehaving


@pytest.fixture(params=["minilm", "kept", "words", "server"])
async def embedder(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Embedder]:
    made: Embedder = MiniLmEmbedder()
    if request.param == "kept":
        made = KeptVectors(made, tmp_path / "vectors.npz")
    elif request.param == "words":
        await made.aclose()
        made = WordEmbedder()
    elif request.param == "server":
        await made.aclose()
        server: Misbehaving = request.getfixturevalue("misbehaving")
        made = BackendEmbedder(BackendConfig(name="b", url=server.url, embedding_model="text-embedding-real"))
        await made.check()
    yield made
    await made.aclose()


async def test_a_unit_vector_for_each_text_in_order(embedder: Embedder) -> None:
    texts = ["My dog is called Biscuit.", "", "word " * 3000, "日本語も少し", "My dog is called Biscuit."]
    vectors = await embedder.embed(texts)
    assert vectors.shape == (5, embedder.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-4)
    np.testing.assert_array_equal(vectors[0], vectors[4])


async def test_nothing_gives_no_rows(embedder: Embedder) -> None:
    assert (await embedder.embed([])).shape == (0, embedder.dimensions)


async def test_what_means_the_same_lies_closer_than_what_does_not(embedder: Embedder) -> None:
    puppy, dog, tax = await embedder.embed(
        ["The puppy is asleep", "Our little dog sleeps", "Tax returns are due in May"]
    )
    assert puppy @ dog > puppy @ tax + 0.3


async def test_a_hundred_callers_at_once_share_a_few_runs() -> None:
    async with MiniLmEmbedder() as embedder:
        await embedder.embed(["warm"])
        before = embedder.runs
        asked = [embedder.embed([f"Key number {n} is in the kitchen."]) for n in range(100)]
        vectors = await asyncio.gather(*asked)
        assert len({vector.tobytes() for vector in vectors}) == 100
        assert embedder.runs - before <= 3


async def test_a_question_that_waits_too_long_is_given_up_and_the_next_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(embedders, "QUESTION_PATIENCE", 0.3)
    monkeypatch.setattr(embedders, "QUESTION_CHARACTERS", 1)
    async with MiniLmEmbedder(EmbedderConfig(cache=0)) as embedder:
        await embedder.embed(["Who am I?"], question=True)
        encode = MiniLmModel.encode

        def slowly(model: MiniLmModel, texts: Sequence[str]) -> Vectors:
            time.sleep(0.2)
            return encode(model, texts)

        monkeypatch.setattr(MiniLmModel, "encode", slowly)
        asked = [embedder.embed([f"Question {n}?"], question=True) for n in range(20)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        given_up = [answer for answer in answers if isinstance(answer, EmbedderUnavailableError)]
        assert 15 <= len(given_up) <= 19
        assert not isinstance(answers[0], BaseException)
        assert (await embedder.embed(["And now?"], question=True)).shape == (1, 384)


async def test_questions_are_gone_on_with_while_the_event_loop_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders, "QUESTION_PATIENCE", 120.0)
    async with MiniLmEmbedder(EmbedderConfig(cache=0)) as embedder:
        await embedder.embed(["Who am I?"], question=True)
        before = embedder.runs
        asked = [asyncio.create_task(embedder.embed([f"{n}: {'and so on ' * 30}?"], question=True)) for n in range(5)]
        await asyncio.sleep(0.001)
        deadline = time.monotonic() + 60
        while embedder.runs < before + 5 and time.monotonic() < deadline:
            time.sleep(0.001)  # noqa: ASYNC251  the loop does nothing else meanwhile
        assert embedder.runs == before + 5
        assert len(await asyncio.gather(*asked)) == 5


async def test_more_questions_than_can_be_answered_soon_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedders, "MOST_QUESTIONS", 10)
    async with MiniLmEmbedder(EmbedderConfig(cache=0)) as embedder:
        asked = [embedder.embed([f"Question {n}?"], question=True) for n in range(30)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [isinstance(answer, EmbedderBusyError) for answer in answers]
        assert refused == [False] * 10 + [True] * 20
        assert (await embedder.embed(["And now?"], question=True)).shape == (1, 384)
        assert (await embedder.embed([f"line {n}" for n in range(12)])).shape == (12, 384)


async def test_a_repeated_text_is_not_run_again() -> None:
    async with MiniLmEmbedder() as embedder:
        first = await embedder.embed(["the same words"])
        runs = embedder.runs
        np.testing.assert_array_equal(await embedder.embed(["the same words"]), first)
        assert embedder.runs == runs


async def test_a_question_waits_for_no_import() -> None:
    async with MiniLmEmbedder() as embedder:
        await embedder.embed(["warm"])
        bulk = asyncio.create_task(embedder.embed([f"line {n} " + "and so on " * 60 for n in range(60)]))
        await asyncio.sleep(0)
        await embedder.embed(["Who am I?"], question=True)
        assert not bulk.done()
        await bulk


async def test_a_question_finds_what_was_stored_and_depends_on_nobody_beside_it() -> None:
    told = ["My dog is called Biscuit.", "Taxes are due in May.", "I moved to Lisbon last year.", "Anna plays chess."]
    asked = ["What is the name of my dog?", "When do I pay taxes?", "Where do I live?", "Who likes board games?"]
    async with MiniLmEmbedder() as embedder, MiniLmEmbedder() as other:
        stored = await embedder.embed(told)
        together = await embedder.embed(asked, question=True)
        assert (together @ stored.T).argmax(axis=1).tolist() == [0, 1, 2, 3]
        alone = [(await other.embed([text], question=True))[0] for text in reversed(asked)]
        np.testing.assert_array_equal(together, np.stack(alone[::-1]))
        assert ((await embedder.embed(asked)) * together).sum(axis=1).min() > 0.98


async def test_a_long_question_is_looked_at_from_both_ends() -> None:
    async with MiniLmEmbedder() as embedder:
        filler = "and then we went on talking about nothing much at all " * 400
        assert len(filler) > 20 * ENDS
        dog, tax = await embedder.embed(["My dog is called Biscuit.", "Taxes are due in May."])
        (question,) = await embedder.embed([f"{filler} Now what is my dog called, Biscuit or Scone?"], question=True)
        assert question @ dog > question @ tax + 0.1


async def test_one_caller_who_leaves_does_not_fail_the_others() -> None:
    async with MiniLmEmbedder() as embedder:
        leaving = asyncio.create_task(embedder.embed(["shared text"]))
        staying = asyncio.create_task(embedder.embed(["shared text"]))
        await asyncio.sleep(0)
        leaving.cancel()
        assert (await staying).shape == (1, 384)


async def test_a_failing_run_fails_its_callers_and_not_the_next_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MiniLmEmbedder(EmbedderConfig(cache=0)) as embedder:
        await embedder.embed(["fine"])
        with monkeypatch.context() as broken:
            broken.setattr(embedder._bulk, "_model", lambda: None)
            with pytest.raises(AttributeError):
                await embedder.embed(["not fine"])
        assert (await embedder.embed(["fine again"])).shape == (1, 384)
