"""One configured backend at work: its keys in rotation, its permits, its circuit, its counter of tokens."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import aiohttp

from service.llm.breaker import CircuitBreaker
from service.llm.capabilities import Capabilities
from service.llm.config import BackendConfig
from service.llm.dialect import Dialect, SchemaForm
from service.llm.errors import (
    BackendBusyError,
    BackendError,
    BackendTimeoutError,
    BackendUnavailableError,
    KeyRefusedError,
    QueueTimeoutError,
)
from service.llm.metrics import CIRCUIT_OPEN
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.permits import OnPosition, Permits
from service.llm.ports import Target, Usage
from service.llm.responses import ResponsesBackend
from service.llm.scripted import ScriptedBackend
from service.llm.spend import Budget, DailyLedger
from service.llm.tokens import EstimatedTokens, ExactTokens, TokenCounter

UNKNOWN_CONTEXT = 4096
"""What LM Studio loads a model with unless told otherwise; the least of the usual defaults."""
MARGIN = 64
"""Tokens left unused, for what a template adds and an estimate misses."""
STAYS_LOADED = 600.0
"""Seconds for which a model is taken to be in memory; LM Studio unloads an idle one after an hour."""
TOLD_AFTER = 3.0
"""Seconds after which somebody who waits for a model to be woken reads so."""
KEY_REST = 300.0
"""Seconds for which a key that was refused is left alone."""


Server = OpenAICompatibleBackend | ScriptedBackend


@dataclass
class Key:
    """One API key: a backend that uses it, and whether it may be used now."""

    backend: Server
    circuit: CircuitBreaker
    used: int = 0
    refused: KeyRefusedError | None = None
    """What its server said when it rests for being refused."""
    last: str = ""
    """Its last four characters, by which an operator knows it."""


@dataclass
class Provider:
    """A backend as the pool sees it."""

    config: BackendConfig
    keys: list[Key]
    permits: Permits
    circuit: CircuitBreaker
    budget: Budget
    clock: Callable[[], float]
    waking: asyncio.Lock = field(default_factory=asyncio.Lock)
    woken: dict[str, float] = field(default_factory=dict)
    capabilities: Capabilities = field(default_factory=Capabilities)
    asked_context: bool = False
    counters: dict[str, TokenCounter] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.config.name

    @property
    def backend(self) -> Server:
        """The backend of any key, for questions that are not replies."""
        return self.keys[0].backend

    @property
    def model(self) -> str:
        return self.backend.model

    @property
    def scripted(self) -> bool:
        return self.backend.scripted

    @asynccontextmanager
    async def warming(
        self, model: str, *, until: float | None = None, on_position: OnPosition | None = None
    ) -> AsyncIterator[None]:
        """Let one request alone wake a model that loads on demand: more would load more copies (lmstudio#1751).

        The block is that request's way to its first token. Others wait for it until `until` of the event loop's time,
        and hear that they are next when that takes long. Raises `QueueTimeoutError`.
        """
        if not self.config.is_local or self.scripted or self._is_warm(model):
            yield
            return
        await self._alone(until, on_position)
        if self._is_warm(model):
            self.waking.release()
            yield
            return
        try:
            yield
            self.woken[model] = self.clock()
        finally:
            self.waking.release()

    async def _alone(self, until: float | None, on_position: OnPosition | None) -> None:
        loop = asyncio.get_running_loop()
        told = loop.call_later(TOLD_AFTER, on_position, 1) if on_position is not None else None
        try:
            async with asyncio.timeout_at(until):
                await self.waking.acquire()
        except TimeoutError as error:
            raise QueueTimeoutError("its model is still being woken", backend=self.name) from error
        finally:
            if told is not None:
                told.cancel()

    def _is_warm(self, model: str) -> bool:
        return model in self.woken and self.clock() - self.woken[model] < STAYS_LOADED

    def key(self) -> Key | None:
        """Return the key that was used least among those that may be used now."""
        ready = [key for key in self.keys if not key.circuit.is_open]
        return min(ready, key=lambda key: key.used, default=None)

    @property
    def is_resting(self) -> bool:
        """A call now would be refused: the server's circuit is open, or that of each of its keys."""
        return self.circuit.is_open or self.key() is None

    def rest_reason(self) -> BackendError:
        """Return why no call may be made now: keys that were refused are not a busy server."""
        wait = max(0.2, self.wait())
        refused = [key.refused for key in self.keys if key.refused is not None and key.circuit.wait()]
        if refused and len(refused) == len(self.keys):
            return type(refused[0])(str(refused[0]), backend=self.name)
        return BackendBusyError("resting after failures", backend=self.name, retry_after=wait)

    def wait(self) -> float:
        """Return the seconds until a call may be tried; 0 when one may be now."""
        return max(self.circuit.wait(), min(key.circuit.wait() for key in self.keys))

    def counter(self, model: str) -> TokenCounter:
        if model not in self.counters:
            path = self.config.tokenizer
            self.counters[model] = ExactTokens(path) if path is not None else EstimatedTokens()
        return self.counters[model]

    def context(self) -> int:
        told = [tokens for tokens in (self.config.context_length, self.capabilities.context_length) if tokens]
        return min(told, default=UNKNOWN_CONTEXT)

    def learnt(self, record: Capabilities) -> None:
        """Use what a probe found, in what is promised and in how the model is asked."""
        self.capabilities = record
        backend = self.backend
        if not isinstance(backend, OpenAICompatibleBackend) or not backend.model:
            return
        dialect = backend.dialect(backend.model)
        if record.prefill in {"continues", "doubles"}:
            dialect = replace(dialect, prefill="vllm" if record.server == "vllm" else "trailing")
        elif record.prefill != "unknown":
            dialect = replace(dialect, prefill="none")
        if record.reasoning not in {"unknown", "always"}:
            dialect = replace(dialect, opens_thinking=record.reasoning == "unopened")
        if record.server == "vllm":
            dialect = replace(dialect, repeat_penalty="repetition_penalty")
        if record.structured not in {"unknown", "none"}:
            dialect = replace(dialect, structured=cast("SchemaForm", record.structured))
        backend.use_dialect(backend.model, dialect)

    def heed(self, limit: int | None) -> None:
        """Remember a context that proved smaller than it was taken for."""
        if limit is not None and limit < self.context():
            self.capabilities = replace(self.capabilities, context_length=limit)

    def forget_model(self) -> bool:
        """Ask anew which model is loaded; False when there is nothing to forget."""
        known = [key.backend for key in self.keys if key.backend.model]
        for backend in known:
            backend.model = ""
        return bool(known)

    def continues(self) -> bool:
        """Whether a begun reply can be continued here, as far as is known."""
        if self.config.continues is not None:
            return self.config.continues
        return self.scripted or self.capabilities.prefill in {"continues", "doubles"}

    def target(self, model: str, *, limit: int | None = None) -> Target:
        """Return what a prompt's builder must know; `limit` is the context that a refused prompt did not fit."""
        context = min(limit or self.context(), self.context())
        reply = min(self.config.max_reply_tokens, context // 2)
        longest = max(64, context - reply - MARGIN)
        prompt = min(longest, self.config.max_prompt_tokens or longest)
        if limit is not None:  # counting was off, or the context was: this time with room to spare
            longest, prompt = longest * 3 // 4, prompt * 3 // 4
        return Target(self.name, model, self.scripted, prompt, reply, self.counter(model).count, longest)

    def cost(self, usage: Usage) -> float:
        prices = self.config.prices
        return (usage.prompt_tokens * prices.prompt + usage.completion_tokens * prices.completion) / 1_000_000

    def blame(self, key: Key, error: BackendError) -> None:
        """Note a failed call where it belongs: at the key, at the server, or nowhere.

        Every way leaves both circuits without a call that tries: one that stays in it would be the last ever made.
        """
        if isinstance(error, KeyRefusedError):
            key.refused = error
            key.circuit.pause(KEY_REST)
            key.circuit.abandon()
        elif error.retry_after is not None:
            key.circuit.pause(error.retry_after)
            key.circuit.abandon()
        elif error.code == "backend_busy" and not isinstance(error, QueueTimeoutError):
            key.circuit.fail()
        else:
            key.circuit.abandon()
        if isinstance(error, BackendTimeoutError) or (
            isinstance(error, BackendUnavailableError) and error.code != "backend_busy"
        ):
            self.circuit.fail()
        else:
            self.circuit.abandon()

    async def aclose(self) -> None:
        for key in self.keys:
            await key.backend.aclose()


def build_provider(
    config: BackendConfig, session: aiohttp.ClientSession, clock: Callable[[], float], ledger: DailyLedger
) -> Provider:
    """Return a provider in its first state."""
    backends: list[Server]
    if config.kind == "scripted":
        backends, last = [ScriptedBackend(config)], [""]
    else:
        keys = list(config.api_keys) or [""]
        random.shuffle(keys)  # instances that start together should not all begin with the same key
        dialects: dict[str, Dialect] = {}
        kind = ResponsesBackend if config.api == "responses" else OpenAICompatibleBackend
        backends = [kind(config, session=session, api_key=key, dialects=dialects) for key in keys]
        last = [key[-4:] if len(key) >= 12 else "" for key in keys]
    budget = Budget(ledger, config.name, config.prices.daily_budget)
    keyed = [Key(backend, CircuitBreaker(clock), last=end) for backend, end in zip(backends, last, strict=True)]
    provider = Provider(config, keyed, Permits(config.max_concurrency), CircuitBreaker(clock), budget, clock)
    # asked when somebody looks: a rest ends by itself, with nothing happening that could set a number
    CIRCUIT_OPEN.labels(config.name).set_function(lambda: float(provider.is_resting))
    return provider
