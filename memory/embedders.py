"""Sentence vectors made in this process: all-MiniLM-L6-v2, quantised to 8 bits, on the processor."""

import asyncio
import functools
import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from memory.errors import EmbedderBusyError, EmbedderUnavailableError
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
"""The same for questions, which share nothing in a run but the way back to the event loop."""
MOST_QUESTIONS = 64
"""Waiting questions from which on no more are taken: memories are looked for by the words of those that come then. It is
a third of a second's work, so that only a process that is full beyond a burst comes to it."""
QUESTION_PATIENCE = 5.0
"""Seconds after which a question that waits for its turn is given up all the same."""


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

    The thread takes from the queue by itself, as much as a run may hold: where the event loop is busy, each way to it and
    back takes longer than a run, and they would add up for all who wait.
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
        self._waiting: dict[str, asyncio.Future[Vectors]] = {}
        self._queue: deque[tuple[float, str]] = deque()
        """Since when, and which text: the event loop appends, the thread takes."""
        self._working = False
        self._lock = threading.Lock()
        self.runs = 0

    def __len__(self) -> int:
        """Texts that are waited for."""
        return len(self._waiting)

    def ask(self, text: str) -> Vectors | asyncio.Future[Vectors]:
        if (known := self._cache.get(text)) is not None:
            self._cache.move_to_end(text)
            return known
        if (waiting := self._waiting.get(text)) is not None:
            return waiting
        loop = asyncio.get_running_loop()
        found = self._waiting[text] = loop.create_future()
        with self._lock:
            self._queue.append((time.monotonic(), text))
            began, self._working = self._working, True
        if not began:
            # in the loop's next turn: whoever asks in this one shares the first run
            loop.call_soon(self._begin, loop)
        return found

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            self._executor.submit(self._work, loop)
        except RuntimeError as error:  # closed meanwhile
            with self._lock:
                left, self._working = [text for _, text in self._queue], False
                self._queue.clear()
            self._tell_all([(text, EmbedderUnavailableError(str(error))) for text in left])

    # --- in the thread

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while batch := self._next(loop):
            try:
                self.runs += 1
                vectors = self._model().encode(batch)
            except Exception as error:  # noqa: BLE001  whatever it is, those who wait hear of it
                loop.call_soon_threadsafe(self._tell_all, [(text, error) for text in batch])
            else:
                loop.call_soon_threadsafe(self._tell_all, list(zip(batch, vectors, strict=True)))

    def _next(self, loop: asyncio.AbstractEventLoop) -> list[str]:
        """The oldest texts, as many as a run may hold, less those that have waited too long: answering them would make
        everybody behind them late as well."""
        chosen: list[str] = []
        late: list[tuple[str, EmbedderBusyError]] = []
        characters = 0
        latest = time.monotonic() - self._patience
        with self._lock:
            while self._queue:
                since, text = self._queue[0]
                characters += len(text)
                if chosen and characters > self._characters:
                    break
                self._queue.popleft()
                if since < latest:
                    characters -= len(text)
                    late.append((text, EmbedderBusyError("the embedding model is busy")))
                else:
                    chosen.append(text)
            self._working = bool(chosen)
        if late:
            loop.call_soon_threadsafe(self._tell_all, late)
        return chosen

    # --- in the event loop

    def _tell_all(self, answers: Sequence[tuple[str, Vectors | BaseException]]) -> None:
        for text, answer in answers:
            if not isinstance(answer, BaseException):
                self._cache[text] = answer
            self._tell(text, answer)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _tell(self, text: str, answer: Vectors | BaseException) -> None:
        waiting = self._waiting.pop(text)
        if waiting.done():
            return
        if isinstance(answer, BaseException):
            waiting.set_exception(answer)
            waiting.exception()  # a caller who left must not turn it into a warning
        else:
            waiting.set_result(answer)

    async def aclose(self) -> None:
        """Wait for what is asked for still."""
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
        """Unit vectors of shape (len(texts), 384). A question goes ahead of bulk work. Raises `EmbedderBusyError`."""
        if question and len(self._questions) >= MOST_QUESTIONS:
            raise EmbedderBusyError("the embedding model is busy")
        lane = self._questions if question else self._bulk
        found = [lane.ask(text) for text in texts]
        # shielded: others may wait for the same text, and cancelling one caller must not fail them
        rows = [item if isinstance(item, np.ndarray) else await asyncio.shield(item) for item in found]
        return named(np.stack(rows) if rows else np.zeros((0, DIMENSIONS), np.float32), self.name)

    async def aclose(self) -> None:
        """Wait for the runs that are on, and give back the threads."""
        await asyncio.gather(self._questions.aclose(), self._bulk.aclose())
