"""All backends behind one door: which are asked, in what order, how often, and what is told when none can answer."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from service.llm import metrics
from service.llm.calls import BuildRequest, Call, reply
from service.llm.capabilities import CapabilityStore
from service.llm.config import BackendConfig, Tier
from service.llm.errors import (
    BackendBusyError,
    BackendError,
    BackendRefusedError,
    CannotContinueError,
    ContextOverflowError,
    EmptyReplyError,
    KeyRefusedError,
    ModelNotFoundError,
)
from service.llm.learning import Learner
from service.llm.permits import OnPosition
from service.llm.ports import ChatRequest, Opened, Target, Usage
from service.llm.providers import Key, Provider, build_provider
from service.llm.spend import DailySpend
from service.llm.transport import open_session

ROUNDS = 4
"""How often the whole list of a route is gone through before a turn is told that the service is busy."""
PATIENCE = 20.0
"""Seconds that a turn may wait for a first choice of backend, not counting the model's own time."""
BACKOFF = 0.5
LONGEST_BACKOFF = 8.0
MORE_ROOM = 4
"""A reply whose whole budget went into thinking is asked for once more with this many times the tokens."""
MOST_REPLY_TOKENS = 8192


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    target: Target
    finish_reason: str
    usage: Usage | None


class Backends:
    """Every configured model server. Made inside a running event loop, and used in that loop only."""

    def __init__(
        self,
        configs: Sequence[BackendConfig],
        *,
        home: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        patience: float = PATIENCE,
        learn: bool = True,
    ) -> None:
        self._session = open_session()
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._patience = patience
        self._store = CapabilityStore(home / "capabilities.json" if home else None, time.time)
        self._learner = Learner(self._store) if learn else None
        self._providers: list[Provider] = []
        self._apply(configs)

    @property
    def providers(self) -> Sequence[Provider]:
        return tuple(self._providers)

    def select(self, route: str, tier: Tier = "large", name: str | None = None) -> list[Provider]:
        """Return the backends that may answer on `route`, first choice first.

        `name` (a backend's or a model's) narrows the choice; it never leaves the route. Raises `ModelNotFoundError`
        or `BackendRefusedError`.
        """
        serving = [provider for provider in self._providers if route in provider.config.routes]
        if not serving:
            raise BackendRefusedError(f"no backend is configured for the route {route!r}")
        if name:
            serving = [provider for provider in serving if name in {provider.name, provider.model}]
            if not serving:
                raise ModelNotFoundError(f"no backend or model named {name[:80]!r} on this route")
        return sorted(serving, key=lambda provider: provider.config.tier != tier)

    def can_continue(self, route: str, name: str | None = None) -> bool:
        """Tell whether the backend that would answer now is known to continue a begun reply."""
        try:
            providers = self.select(route, name=name)
        except BackendError:
            return False
        ready = [provider for provider in providers if not provider.circuit.is_open]
        return any(provider.continues() for provider in (ready or providers)[:1])

    async def open_stream(
        self,
        build: BuildRequest,
        *,
        route: str,
        tier: Tier = "large",
        name: str | None = None,
        on_position: OnPosition | None = None,
        patience: float | None = None,
    ) -> Opened:
        """Return a reply whose first token is there.

        `build` is called with the target that is about to answer, perhaps several times. Until the first token every
        failure is worked around: other keys, one smaller prompt, other backends of the route, then again after a
        pause. Raises the `BackendError` that tells most when all that fails.
        """
        call = Call(build, route, on_position)
        end = self._clock() + (self._patience if patience is None else patience)
        for attempt in range(ROUNDS):
            errors = []
            candidates = self.select(route, tier, name)
            for place, provider in enumerate(candidates):
                wait = provider.config.queue_patience if place < len(candidates) - 1 else max(0.1, end - self._clock())
                try:
                    opened = await self._open_at(provider, call, wait)
                except BackendError as error:
                    errors.append(error)
                    continue
                if place:
                    metrics.FAILOVERS.labels(route).inc()
                return opened
            worst = _most_telling(errors)
            pause = self._pause(errors, attempt)
            if not worst.retryable or attempt == ROUNDS - 1 or self._clock() + pause > end:
                raise worst
            metrics.RETRIES.labels(worst.backend, worst.code).inc()
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def complete(
        self, build: BuildRequest, *, route: str, tier: Tier = "small", patience: float | None = None
    ) -> Completion:
        """Return a whole answer; for extraction, summaries and the like."""
        opened = await self.open_stream(build, route=route, tier=tier, patience=patience)
        text, finish, usage = [], "stop", None
        try:
            async for delta in opened.deltas:
                text.append(delta.text)
                finish = delta.finish_reason or finish
                usage = delta.usage or usage
        finally:
            await opened.deltas.aclose()
        return Completion("".join(text), opened.target, finish, usage)

    def describe(self) -> list[dict[str, Any]]:
        """Return each backend's state, without addresses or keys."""
        return [
            {
                "name": provider.name,
                "model": provider.model,
                "routes": list(provider.config.routes),
                "tier": provider.config.tier,
                "scripted": provider.scripted,
                "state": "resting" if provider.circuit.is_open else "ready",
                "context_length": provider.context(),
                "continues": provider.continues(),
                "in_use": provider.permits.in_use,
                "waiting": provider.permits.waiting,
                "spent_today": round(provider.spend.spent, 6),
            }
            for provider in self._providers
        ]

    def reload(self, configs: Sequence[BackendConfig]) -> None:
        """Apply a new configuration; replies that are being read go on with what they began with."""
        self._apply(configs)
        metrics.RELOADS.labels("applied").inc()

    async def aclose(self) -> None:
        if self._learner is not None:
            await self._learner.aclose()
        await self._session.close()

    def _apply(self, configs: Sequence[BackendConfig]) -> None:
        kept = {provider.name: provider for provider in self._providers}
        providers = []
        for config in configs:
            old = kept.get(config.name)
            if old is not None and old.config == config:
                providers.append(old)
                continue
            spend = old.spend if old is not None else DailySpend(None)
            spend.budget = config.prices.daily_budget
            provider = build_provider(config, self._session, self._clock, spend)
            providers.append(provider)
            if self._learner is not None:
                self._learner.watch(provider)
        self._providers = providers
        if self._learner is not None:
            self._learner.keep_only(providers)

    async def _open_at(self, provider: Provider, call: Call, wait: float) -> Opened:
        """Try one provider: each of its keys, one smaller prompt, one longer reply."""
        if provider.spend.is_exhausted:
            metrics.BUDGET_EXHAUSTED.labels(provider.name).inc()
            rest = provider.spend.until_midnight()
            raise BackendBusyError("its daily budget is spent", backend=provider.name, retry_after=rest)
        limit: int | None = None
        room = 1
        for _ in range(len(provider.keys) + 2):
            key = provider.key() if not provider.circuit.is_open else None
            if key is None:
                raise BackendBusyError(
                    "resting after failures", backend=provider.name, retry_after=max(0.2, provider.wait())
                )
            try:
                return await self._begin(provider, key, call, wait, limit=limit, room=room)
            except ContextOverflowError as error:
                metrics.OVERFLOWS.labels(provider.name).inc()
                if limit is not None:
                    raise
                provider.heed(error.limit)
                limit = min(error.limit or provider.context() // 2, provider.context() * 3 // 4)
            except ModelNotFoundError:
                if provider.config.model or not provider.forget_model():
                    raise
            except EmptyReplyError as error:
                if room > 1 or "length" not in str(error):
                    raise
                room = MORE_ROOM
            except (KeyRefusedError, BackendBusyError):
                if provider.key() is None or len(provider.keys) == 1:
                    raise
        raise BackendBusyError("all its keys are refused or busy", backend=provider.name)

    async def _begin(
        self, provider: Provider, key: Key, call: Call, wait: float, *, limit: int | None, room: int
    ) -> Opened:
        try:
            model = await key.backend.resolve_model()
        except BackendError as error:
            provider.blame(key, error)
            raise
        if self._learner is not None:
            await self._learner.context_known(provider)
        target = provider.target(model, limit=limit)
        request = call.build(target)
        if room > 1 and request.max_tokens is not None:
            request = replace(request, max_tokens=min(MOST_REPLY_TOKENS, request.max_tokens * room))
        if request.prefix and not provider.continues() and not provider.scripted:
            raise CannotContinueError("not known to continue a begun reply", backend=provider.name)
        deltas = reply(
            provider, key, replace(request, model=model), target, patience=wait, on_position=call.on_position
        )
        try:
            await anext(deltas)
        except BaseException:
            await deltas.aclose()
            raise
        return Opened(target, deltas)

    def _pause(self, errors: Sequence[BackendError], attempt: int) -> float:
        """Return how long to wait: what the soonest server asked for, never less than a growing, jittered pause."""
        asked = min(
            (error.retry_after for error in errors if error.retryable and error.retry_after is not None), default=0.0
        )
        most = min(LONGEST_BACKOFF, BACKOFF * 2**attempt)
        return asked + self._rng.uniform(most / 4, most)


def _most_telling(errors: Sequence[BackendError]) -> BackendError:
    """Return the error to act on: one that passes with time before one that stays, then the soonest."""
    for error in errors:
        if isinstance(error, CannotContinueError):
            return error
    passing = [error for error in errors if error.retryable]
    if not passing:
        return errors[0]
    return min(passing, key=lambda error: error.retry_after if error.retry_after is not None else 5.0)


def fixed(request: ChatRequest) -> BuildRequest:
    """Return a builder for a request that does not depend on who answers."""
    return lambda _target: request
