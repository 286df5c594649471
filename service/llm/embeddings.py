"""Vectors from a model server: many texts that are wanted at once travel in few calls."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from memory.ports import Vectors
from service.llm import metrics
from service.llm.config import BackendConfig
from service.llm.errors import BackendError, BackendInterruptedError, BackendRefusedError
from service.llm.openai_compatible import OpenAICompatibleBackend

BATCH = 64
BATCH_CHARS = 200_000
GATHER = 0.004
"""Seconds in which texts are gathered when no call is running; while one runs they gather anyway."""
ATTEMPTS = 3
PATIENCE = 60.0


class WrongWidthError(BackendRefusedError):
    """The model's vectors do not fit the column: mixing two models would make every search wrong."""

    code = "embedding_width"


class BackendEmbedder:
    """`memory.ports.Embedder` over /v1/embeddings."""

    def __init__(
        self,
        config: BackendConfig,
        dimensions: int,
        *,
        backend: OpenAICompatibleBackend | None = None,
        batch: int = BATCH,
        pause: Callable[[int], float] = lambda attempt: 0.5 * 2**attempt,
    ) -> None:
        if not config.embedding_model:
            raise BackendRefusedError("no embedding_model is configured", backend=config.name)
        self.name = config.embedding_model
        self.dimensions = dimensions
        self._backend = backend or OpenAICompatibleBackend(config)
        self._batch = batch
        self._pause = pause
        # OpenAI's third generation shortens its vectors on request; other servers don't, or don't know the word
        self._shortens = config.is_openai and self.name.startswith("text-embedding-3")
        self._queue: list[tuple[str, asyncio.Future[Vectors]]] = []
        self._sender: asyncio.Task[None] | None = None

    async def check(self) -> None:
        """Ask for one vector. Raises `WrongWidthError`, or the `BackendError` that stands in the way."""
        await self.embed(["width"])

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """See the port. Raises a `BackendError` when the server gives no vectors of the right width."""
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        loop = asyncio.get_running_loop()
        futures: list[asyncio.Future[Vectors]] = [loop.create_future() for _ in texts]
        self._queue.extend(zip((text or " " for text in texts), futures, strict=True))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name=f"embed-{self.name}")
        rows = await asyncio.gather(*futures, return_exceptions=True)
        for row in rows:
            if isinstance(row, BaseException):
                raise row
        return np.stack([row for row in rows if not isinstance(row, BaseException)])

    async def aclose(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        for _, future in self._queue:
            future.cancel()
        await self._backend.aclose()

    async def _send_all(self) -> None:
        await asyncio.sleep(GATHER)
        while self._queue:
            batch = self._next_batch()
            try:
                vectors = await self._vectors(list(batch))
            except BackendError as error:
                for future in (future for futures in batch.values() for future in futures if not future.done()):
                    future.set_exception(error)
                continue
            for row, futures in zip(vectors, batch.values(), strict=True):
                for future in futures:
                    if not future.done():
                        future.set_result(row)

    def _next_batch(self) -> dict[str, list[asyncio.Future[Vectors]]]:
        """Take the texts of one call off the queue; equal ones are asked once."""
        batch: dict[str, list[asyncio.Future[Vectors]]] = {}
        size = taken = 0
        for text, future in self._queue:
            if text not in batch and batch and (len(batch) >= self._batch or size + len(text) > BATCH_CHARS):
                break
            taken += 1
            if future.cancelled():
                continue
            size += len(text)
            batch.setdefault(text, []).append(future)
        del self._queue[:taken]
        return batch

    async def _vectors(self, texts: list[str]) -> Vectors:
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        body: dict[str, Any] = {"model": self.name, "input": texts}
        if self._shortens:
            body["dimensions"] = self.dimensions
        for attempt in range(ATTEMPTS):
            try:
                answer = await self._backend.post("/embeddings", body, timeout=PATIENCE)
            except BackendError as error:
                if not error.retryable or attempt == ATTEMPTS - 1:
                    raise
                await asyncio.sleep(error.retry_after or self._pause(attempt))
            else:
                metrics.EMBEDDING_CALLS.labels(self._backend.name).inc()
                metrics.EMBEDDED_TEXTS.labels(self._backend.name).inc(len(texts))
                return self._checked(answer, len(texts))
        raise AssertionError("unreachable")

    def _checked(self, answer: Any, count: int) -> Vectors:
        """Return unit rows in the order of the texts, whatever order the server chose."""
        backend = self._backend.name
        try:
            rows = sorted(answer["data"], key=lambda item: item.get("index", 0))
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise BackendInterruptedError("an answer without vectors", backend=backend) from error
        if len(rows) != count:
            raise BackendInterruptedError(f"{len(rows)} vectors for {count} texts", backend=backend)
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            got = vectors.shape[-1] if vectors.ndim == 2 else "uneven"
            raise WrongWidthError(
                f"{self.name} makes vectors of {got} numbers, the memory holds {self.dimensions}: "
                "choose a model of that width, or change the embedding model as docs/backends.md describes",
                backend=backend,
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or (lengths == 0).any():
            raise BackendInterruptedError("a vector without length", backend=backend)
        unit: Vectors = vectors / lengths
        return unit
