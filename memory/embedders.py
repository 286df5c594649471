"""Sentence vectors made in this process: all-MiniLM-L6-v2, quantised to 8 bits, on the processor."""

import asyncio
import functools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from memory.errors import EmbedderUnavailableError
from memory.minilm import Precision, Weights, built, multiplies_exactly, session
from memory.models import named
from memory.ports import Vectors

TOKENIZER = Path(__file__).parent / "data" / "minilm_tokenizer.json"
DIMENSIONS = 384
QUERY_TOKENS = 64
"""What a question is cut to, half of it from either end: its embedding is on the path of a reply, and costs by the token.
A long message says first what it is about, and asks last."""
ENDS = 500
"""Characters of a long question that are looked at, from either end."""
RUN_CHARACTERS = 8192
"""Texts handed to the model together; bounds how long closing or a newcomer waits (about half a second)."""
QUESTION_CHARACTERS = 200
"""The same for questions, which share nothing in a run but the way to the thread and back. On a full machine that way is
slow, and holds turns back before they reach PostgreSQL: with 4,096 at a time, 1,000 users waited half as long (added p95
6.2 s instead of 13.3), and 1.4 % of their turns were refused for want of a connection instead of none."""
QUESTION_PATIENCE = 30.0
"""Seconds after which a question that waits for its turn is given up: memories are looked for by its words then."""


@dataclass(frozen=True, slots=True)
class EmbedderConfig:
    threads: int = 1
    """Threads inside one run of the model. More help little: runs of this size are short."""
    max_tokens: int = 256
    """Where a text is cut. The model was trained on 128 and reads up to 512."""
    batch: int = 16
    """Texts in one run. Longer batches pad more than they share."""
    cache: int = 2048
    """Vectors of recent texts kept in each lane (1.6 kB each): regenerated turns ask for the same ones again."""


class MiniLmModel:
    """The network itself, for what is asked or for what was told: blocking, one caller at a time."""

    def __init__(self, config: EmbedderConfig, *, asked: bool) -> None:
        precision = Precision.QUICK if asked and multiplies_exactly() else Precision.CLOSE
        self._session: Any = session(built(Weights(), precision), config.threads)
        self._tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self._tokenizer.no_padding()
        if not asked:
            self._tokenizer.enable_truncation(config.max_tokens)
        self._asked = asked
        self._batch = config.batch if precision is Precision.CLOSE else 1

    def encode(self, texts: Sequence[str]) -> Vectors:
        """Vectors in the order of the texts; each run is filled with texts of like length."""
        encoded = [both_ends(encoding.ids) if self._asked else encoding.ids for encoding in self._encodings(texts)]
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(encoded[i]))
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            vectors[rows] = self._run([encoded[i] for i in rows])
        return vectors

    def _encodings(self, texts: Sequence[str]) -> list[Encoding]:
        # cut before it is taken to pieces: a message may have the length of a book
        cut = [f"{text[:ENDS]} {text[-ENDS:]}" if self._asked and len(text) > 2 * ENDS else text for text in texts]
        encodings: list[Encoding] = self._tokenizer.encode_batch(cut)
        return encodings

    def _run(self, texts: Sequence[list[int]]) -> Vectors:
        lengths = np.array([len(ids) for ids in texts], np.int32)
        places = np.arange(lengths.max(), dtype=np.int32)
        shown = places < lengths[:, None]
        ids = np.zeros(shown.shape, np.int32)
        ids[shown] = np.concatenate(texts)
        inputs = {"input_ids": ids, "positions": np.broadcast_to(places, ids.shape), "lengths": lengths}
        hidden = self._session.run(None, inputs)[0]
        pooled = np.einsum("bth,bt->bh", hidden, shown.astype(np.float32))
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        vectors: Vectors = pooled.astype(np.float32)
        return vectors


def both_ends(ids: list[int]) -> list[int]:
    half = QUERY_TOKENS // 2
    return ids if len(ids) <= QUERY_TOKENS else ids[:half] + ids[-half:]


class _Lane:
    """Callers who wait together, and the thread that serves them, those first who came first.

    While one run is on, callers queue; the next run takes as many as it may hold. So a hundred calls at once cost a few
    runs, and a lone one waits for nobody.
    """

    def __init__(
        self, name: str, model: Callable[[], MiniLmModel], cache: int, characters: int, patience: float = math.inf
    ) -> None:
        """`characters` are handed to the model together; nobody waits for their turn for more than `patience` seconds."""
        self._model = model
        self._characters = characters
        self._patience = patience
        self._cache_size = cache
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._waiting: dict[str, tuple[float, asyncio.Future[Vectors]]] = {}
        """Since when, the oldest first, and who waits."""
        self._worker: asyncio.Task[None] | None = None
        self.runs = 0

    def ask(self, text: str) -> Vectors | asyncio.Future[Vectors]:
        if (known := self._cache.get(text)) is not None:
            self._cache.move_to_end(text)
            return known
        if text not in self._waiting:
            loop = asyncio.get_running_loop()
            self._waiting[text] = loop.time(), loop.create_future()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return self._waiting[text][1]

    async def _work(self) -> None:
        try:
            while self._waiting:
                self._give_up()
                if batch := self._next():
                    await self._one_run(batch)
        finally:
            self._worker = None

    def _give_up(self) -> None:
        """Those who have waited too long: answering them would make everybody behind them late as well."""
        latest = asyncio.get_running_loop().time() - self._patience
        for text in [text for text, (since, _) in self._waiting.items() if since < latest]:
            self._end(text, error=EmbedderUnavailableError("the embedding model is busy"))

    def _end(self, text: str, *, vector: Vectors | None = None, error: BaseException | None = None) -> None:
        _, future = self._waiting.pop(text)
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
            future.exception()  # a caller who left must not turn it into a warning
        elif vector is not None:
            future.set_result(vector)

    def _next(self) -> list[str]:
        """The oldest texts, as many as a run may hold."""
        chosen: list[str] = []
        characters = 0
        for text in self._waiting:
            characters += len(text)
            if chosen and characters > self._characters:
                break
            chosen.append(text)
        return chosen

    async def _one_run(self, batch: list[str]) -> None:
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, batch)
        except BaseException as error:
            for text in batch:
                self._end(text, error=error)
            if not isinstance(error, Exception):
                raise
            return
        for text, vector in zip(batch, vectors, strict=True):
            self._cache[text] = vector
            self._end(text, vector=vector)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _encode(self, batch: list[str]) -> Vectors:
        self.runs += 1
        return self._model().encode(batch)

    async def aclose(self) -> None:
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)


class MiniLmEmbedder:
    """An `Embedder` that answers questions and bulk work in two lanes, so that an import delays nobody's reply, and a
    question, whose vector is kept nowhere, is embedded with less care (`memory.minilm.Precision`)."""

    name = "all-minilm-l6-v2-int8"
    dimensions = DIMENSIONS

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        self._config = config or EmbedderConfig()
        questions, bulk = functools.cache(self._asked), functools.cache(self._told)
        self._questions = _Lane("embed-question", questions, self._config.cache, QUESTION_CHARACTERS, QUESTION_PATIENCE)
        self._bulk = _Lane("embed-bulk", bulk, self._config.cache, RUN_CHARACTERS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def runs(self) -> int:
        """How many times texts were handed to the model."""
        return self._questions.runs + self._bulk.runs

    def _asked(self) -> MiniLmModel:
        return MiniLmModel(self._config, asked=True)

    def _told(self) -> MiniLmModel:
        return MiniLmModel(self._config, asked=False)

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        """Unit vectors of shape (len(texts), 384). A question goes ahead of bulk work."""
        lane = self._questions if question else self._bulk
        found = [lane.ask(text) for text in texts]
        # shielded: others may wait for the same text, and cancelling one caller must not fail them
        rows = [item if isinstance(item, np.ndarray) else await asyncio.shield(item) for item in found]
        return named(np.stack(rows) if rows else np.zeros((0, DIMENSIONS), np.float32), self.name)

    async def aclose(self) -> None:
        """Wait for the runs that are on, and give back the threads."""
        await asyncio.gather(self._questions.aclose(), self._bulk.aclose())
