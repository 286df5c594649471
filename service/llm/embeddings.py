"""Vectors from a model server: texts that are wanted at once travel in few calls, questions ahead of bulk work."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from memory.errors import EmbedderUnavailableError
from memory.models import named
from memory.ports import Vectors
from service.llm import metrics
from service.llm.breaker import CircuitBreaker
from service.llm.config import BackendConfig
from service.llm.errors import (
    BackendBusyError,
    BackendError,
    BackendInterruptedError,
    BackendRefusedError,
    BackendUnavailableError,
    BudgetSpentError,
    ContextOverflowError,
    KeyRefusedError,
)
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.residence import Residence
from service.llm.spend import Budget, DailyLedger, PostgresSpend

BATCH = 64
BATCH_CHARS = 200_000
LONGEST_TEXT, SHORTEST_TEXT = 6000, 500
"""Characters a text is cut to: the first is tried, and halved when a server says that it is too long."""
GATHER = 0.004
"""Seconds in which texts are gathered when no call is running; while one runs they gather anyway."""
ATTEMPTS = 3
PATIENCE = 60.0
QUESTION_PATIENCE = 2.0
"""Seconds: a reply waits for its question's vector, and recalls by words without one."""
CACHE = 2048
"""Vectors of recent texts that are kept: a regenerated turn asks for the same one again."""
SMALL = 8
"""Answers up to this many vectors are read on the event loop, larger ones in a thread."""

Waiting = asyncio.Future[Vectors]
Ask = Callable[[list[str]], Awaitable[Vectors]]


class WrongWidthError(BackendRefusedError):
    """The model's vectors do not fit the column: mixing two models would make every search wrong."""

    code = "embedding_width"


class BackendEmbedder:
    """`memory.ports.Embedder` over /v1/embeddings."""

    def __init__(
        self,
        config: BackendConfig,
        dimensions: int | None = None,
        *,
        backend: OpenAICompatibleBackend | None = None,
        spend: PostgresSpend | None = None,
        batch: int = BATCH,
        pause: Callable[[int], float] = lambda attempt: 0.5 * 2**attempt,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`MODEL@WIDTH` asks for shorter vectors, which OpenAI's third generation makes. Without `dimensions`, the first
        answer decides about them. `spend` adds up what calls cost with the backend's replies, here and elsewhere."""
        if not config.embedding_model:
            raise BackendRefusedError("no embedding_model is configured", backend=config.name)
        self.name = config.embedding_model
        self.backend_name = config.name
        self._model, _, shortened = config.embedding_model.rpartition("@")
        if self._model and shortened.isdigit():
            self._shortened = int(shortened)
        else:
            self._model, self._shortened = config.embedding_model, 0
        self.dimensions = dimensions or self._shortened
        keys = config.api_keys or ("",)
        self._keys = [backend] if backend else [OpenAICompatibleBackend(config, api_key=key) for key in keys]
        self._key = 0
        self._residence = Residence(self._keys[0], self._model, clock=clock)
        self._pause = pause
        self._longest = LONGEST_TEXT
        self._circuit = CircuitBreaker(clock)
        self._cache: OrderedDict[str, Vectors] = OrderedDict()
        self._questions = _Lane(self._ask_once, batch)
        self._bulk = _Lane(self._ask_patiently, batch)
        self._price = config.prices.of_embeddings
        self._ledger = DailyLedger(spend)
        self._budget = Budget(self._ledger, config.name, config.prices.daily_budget)
        self._merging: asyncio.Task[None] | None = None
        self.calls = 0
        self.texts = 0
        self.missed = 0
        """How often somebody had to go without vectors."""

    @property
    def is_resting(self) -> bool:
        """It failed several times in a row and is left alone for a while."""
        return self._circuit.is_open

    @property
    def is_spent_up(self) -> bool:
        """Its backend's budget of the day is spent, by whomever and on whatever."""
        return bool(self._price) and self._budget.is_exhausted

    async def check(self) -> None:
        """Ask for one vector, which tells the width. Raises `WrongWidthError`, or the `BackendError` in the way."""
        await self._vectors(["width"], PATIENCE)

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        """See the port. A question goes ahead of bulk work, and is not waited for long."""
        if not texts:
            return np.zeros((0, self.dimensions), dtype=np.float32)
        lane = self._questions if question else self._bulk
        found = [self._kept(text) or lane.ask(text) for text in (text or " " for text in texts)]
        rows = await asyncio.gather(
            *(item for item in found if isinstance(item, asyncio.Future)), return_exceptions=True
        )
        for row in rows:
            if isinstance(row, BackendError):
                self.missed += 1
                raise EmbedderUnavailableError(f"{self.name}: {row}") from row
            if isinstance(row, BaseException):
                raise row
        vectors = [item.row if isinstance(item, _Kept) else item.result() for item in found]
        for text, vector in zip(texts, vectors, strict=True):
            self._keep(text or " ", vector)
        return named(np.stack(vectors), self.name)

    async def aclose(self) -> None:
        await self._questions.aclose()
        await self._bulk.aclose()
        await self._residence.aclose()
        for backend in self._keys:
            await backend.aclose()
        merging, self._merging = self._merging, None
        if merging is not None:
            merging.cancel()
            await asyncio.gather(merging, return_exceptions=True)
            await self._ledger.merge()

    # --- money

    async def _afford(self) -> None:
        """Raises `BudgetSpentError`. Who asks for nothing has nothing to pay."""
        if not self._price:
            return
        if self._merging is None:
            self._merging = asyncio.create_task(self._ledger.keep_merged(), name="embedding-spend")
        await self._budget.known()
        if self._budget.is_exhausted:
            metrics.BUDGET_EXHAUSTED.labels(self.backend_name).inc()
            raise BudgetSpentError(
                "its daily budget is spent", backend=self.backend_name, retry_after=self._budget.wait()
            )

    def _pay(self, answer: Any, texts: Sequence[str]) -> None:
        """For what the server counted, or for about as much where it doesn't count."""
        usage = answer.get("usage") if isinstance(answer, dict) else None
        counted = usage.get("prompt_tokens") or usage.get("total_tokens") if isinstance(usage, dict) else None
        tokens = counted if isinstance(counted, int) and counted > 0 else _about(texts)
        metrics.TOKENS.labels(self.backend_name, self._model, "embedding").inc(tokens)
        if cost := tokens * self._price / 1_000_000:
            self._budget.add(cost)
            metrics.COST.labels(self.backend_name, self._model).inc(cost)

    # --- what is known already

    def _kept(self, text: str) -> "_Kept | None":
        vector = self._cache.get(text)
        if vector is None:
            return None
        self._cache.move_to_end(text)
        return _Kept(vector)

    def _keep(self, text: str, vector: Vectors) -> None:
        self._cache[text] = vector
        while len(self._cache) > CACHE:
            self._cache.popitem(last=False)

    # --- calls

    async def _ask_once(self, texts: list[str]) -> Vectors:
        return await self._vectors(texts, QUESTION_PATIENCE)

    async def _ask_patiently(self, texts: list[str]) -> Vectors:
        for attempt in range(ATTEMPTS):
            try:
                return await self._vectors(texts, PATIENCE)
            except BackendError as error:
                if not error.retryable or attempt == ATTEMPTS - 1 or isinstance(error, BudgetSpentError):
                    raise
                await asyncio.sleep(min(error.retry_after or self._pause(attempt), PATIENCE))
        raise AssertionError("unreachable")

    async def _vectors(self, texts: list[str], patience: float) -> Vectors:
        """One call, or as many as it takes with shorter texts, or fewer, or another key."""
        await self._afford()
        if self._circuit.is_open:
            raise BackendBusyError(
                "resting after failures", backend=self.backend_name, retry_after=max(0.2, self._circuit.wait())
            )
        await self._residence.ensured(patience)
        self._circuit.attempt()
        try:
            vectors = await self._call(texts, patience)
        except ContextOverflowError:
            self._circuit.abandon()
            if self._longest <= SHORTEST_TEXT:
                raise
            self._longest //= 2
            return await self._vectors(texts, patience)
        except BackendRefusedError as error:
            self._circuit.abandon()
            if isinstance(error, WrongWidthError | KeyRefusedError) or len(texts) == 1:
                raise
            # one text may be what is refused: the others need not go without
            half = len(texts) // 2
            parts = [await self._vectors(part, patience) for part in (texts[:half], texts[half:])]
            return np.concatenate(parts)
        except BackendUnavailableError:
            self._circuit.fail()
            raise
        except BaseException:
            self._circuit.abandon()
            raise
        self._circuit.succeed()
        return vectors

    async def _call(self, texts: list[str], patience: float) -> Vectors:
        body: dict[str, Any] = {"model": self._model, "input": [text[: self._longest] for text in texts]}
        if self._shortened:
            body["dimensions"] = self._shortened
        answer = await self._with_any_key(body, patience)
        self._pay(answer, body["input"])
        self.calls += 1
        self.texts += len(texts)
        metrics.EMBEDDING_CALLS.labels(self.backend_name).inc()
        metrics.EMBEDDED_TEXTS.labels(self.backend_name).inc(len(texts))
        if len(texts) <= SMALL:
            return self._checked(answer, len(texts))
        return await asyncio.to_thread(self._checked, answer, len(texts))

    async def _with_any_key(self, body: dict[str, Any], patience: float) -> Any:
        for _ in range(len(self._keys) - 1):
            try:
                return await self._keys[self._key].post("/embeddings", body, timeout=patience)
            except (KeyRefusedError, BackendBusyError):
                self._key = (self._key + 1) % len(self._keys)
        return await self._keys[self._key].post("/embeddings", body, timeout=patience)

    def _checked(self, answer: Any, count: int) -> Vectors:
        """Return unit rows in the order of the texts, whatever order the server chose."""
        backend = self.backend_name
        try:
            rows = sorted(answer["data"], key=lambda item: item.get("index", 0))
            vectors = np.array([row["embedding"] for row in rows], dtype=np.float32)
        except (KeyError, TypeError, ValueError) as error:
            raise BackendInterruptedError("an answer without vectors", backend=backend) from error
        if len(rows) != count:
            raise BackendInterruptedError(f"{len(rows)} vectors for {count} texts", backend=backend)
        if vectors.ndim == 2 and not self.dimensions:
            self.dimensions = vectors.shape[1]
        if vectors.ndim != 2 or vectors.shape[1] != self.dimensions:
            got = vectors.shape[-1] if vectors.ndim == 2 else "uneven"
            raise WrongWidthError(
                f"{self.name} makes vectors of {got} numbers now, and those in the database have {self.dimensions}: "
                "the server answers with another model of that name",
                backend=backend,
            )
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        if not np.isfinite(lengths).all() or (lengths == 0).any():
            raise BackendInterruptedError("a vector without length", backend=backend)
        unit: Vectors = vectors / lengths
        return unit


def _about(texts: Sequence[str]) -> int:
    """Tokens, by their bytes: four to a token."""
    return sum(len(text.encode("utf-8", "surrogatepass")) // 4 + 1 for text in texts)


class _Kept:
    """A vector that was at hand."""

    __slots__ = ("row",)

    def __init__(self, row: Vectors) -> None:
        self.row = row


class _Lane:
    """Texts that wait together, and the task that sends them all in as few calls as it can."""

    def __init__(self, ask: Ask, batch: int) -> None:
        self._ask = ask
        self._batch = batch
        self._queue: list[tuple[str, Waiting]] = []
        self._sender: asyncio.Task[None] | None = None

    def ask(self, text: str) -> Waiting:
        future: Waiting = asyncio.get_running_loop().create_future()
        self._queue.append((text, future))
        if self._sender is None or self._sender.done():
            self._sender = asyncio.create_task(self._send_all(), name="embed")
        return future

    async def aclose(self) -> None:
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.gather(self._sender, return_exceptions=True)
        for _, future in self._queue:
            future.cancel()

    async def _send_all(self) -> None:
        await asyncio.sleep(GATHER)
        while self._queue:
            batch = self._next_batch()
            if not batch:
                continue
            try:
                vectors = await self._ask(list(batch))
            except Exception as error:  # noqa: BLE001 - whatever it is, those who wait hear of it
                for future in (future for futures in batch.values() for future in futures if not future.done()):
                    future.set_exception(error)
                continue
            for row, futures in zip(vectors, batch.values(), strict=True):
                for future in futures:
                    if not future.done():
                        future.set_result(row)

    def _next_batch(self) -> dict[str, list[Waiting]]:
        """Take the texts of one call off the queue; equal ones are asked once, and those nobody waits for not at all."""
        batch: dict[str, list[Waiting]] = {}
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
