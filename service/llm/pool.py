"""All backends behind one door: which are asked, in what order, how often, and what is told when none can answer."""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import structlog

from service.llm import metrics
from service.llm.answers import Completion, CompletionCodec
from service.llm.cache import AnswerCache, key_of
from service.llm.calls import BuildRequest, Call
from service.llm.capabilities import CapabilityStore
from service.llm.config import BackendConfig, Tier
from service.llm.errors import BackendError, BackendRefusedError, UnknownNameError
from service.llm.learning import Learner
from service.llm.opening import most_telling, open_at
from service.llm.permits import OnPosition
from service.llm.ports import Opened
from service.llm.providers import Provider, build_provider
from service.llm.responses import ResponsesBackend
from service.llm.router import Router
from service.llm.spend import DailyLedger, PostgresSpend
from service.llm.transport import open_session
from service.llm.watch import follow_configuration
from service.policies import Policies, RoutePolicy
from sessions.answers import RedisAnswers

log = structlog.get_logger(__name__)

ROUNDS = 4
"""How often the whole list of a route is gone through before a turn is told that the service is busy."""
PATIENCE = 12.0
"""Seconds that a turn may wait for a first choice of backend, not counting the model's own time."""
BACKOFF = 0.5
LONGEST_BACKOFF = 8.0


class Backends:
    """Every configured model server. Made inside a running event loop, and used in that loop only."""

    def __init__(
        self,
        configs: Sequence[BackendConfig],
        *,
        home: Path | None = None,
        spend: PostgresSpend | None = None,
        policies: Policies | None = None,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        shelf: RedisAnswers | None = None,
        patience: float = PATIENCE,
        learn: bool = True,
    ) -> None:
        """`home` keeps what was found out about servers; `spend` adds up money with other processes, `shelf` shares
        answers with them; `policies` may narrow a route to some backends."""
        self._session = open_session()
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not secrets
        self._patience = patience
        self._store = CapabilityStore(home / "capabilities.json" if home else None, time.time)
        self._learner = Learner(self._store) if learn else None
        self._ledger = DailyLedger(spend)
        self._policies = policies
        self.router = Router()
        self._merging: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self.cache: AnswerCache[Completion] = AnswerCache(clock=clock, shelf=shelf)
        self._providers: list[Provider] = []
        self._apply(configs)

    @property
    def providers(self) -> Sequence[Provider]:
        return tuple(self._providers)

    def serving(self, route: str) -> list[Provider]:
        """The backends that may answer on `route`, in the order of the configuration: its own `routes` and the route's
        policy both have a say."""
        allowed = self._policies.routes.get(route) if self._policies is not None else None
        return [provider for provider in self._providers if _serves(provider.config, route, allowed)]

    def unknown_backends(self) -> list[str]:
        """Backends that route policies name and nobody configured."""
        named = {
            name
            for policy in (self._policies.routes.values() if self._policies else ())
            for name in policy.backends or ()
        }
        return sorted(named - {provider.name for provider in self._providers})

    def select(self, route: str, tier: Tier = "large", name: str | None = None) -> list[Provider]:
        """Return the backends that may answer on `route`, first choice first.

        `name` (a backend's or a model's) narrows the choice; it never leaves the route. Raises `ModelNotFoundError`
        or `BackendRefusedError`.
        """
        serving = self.serving(route)
        if not serving:
            raise BackendRefusedError(f"no backend is configured for the route {route!r}")
        if name:
            serving = [provider for provider in serving if name in {provider.name, provider.model}]
            if not serving:
                raise UnknownNameError(f"no backend or model named {name[:80]!r} on this route")
        return sorted(serving, key=lambda provider: provider.config.tier != tier)

    def can_resume(self, route: str, name: str) -> bool:
        """Tell whether this backend writes replies that can be read on in, and is still one of the route."""
        return any(provider.name == name and provider.config.api == "responses" for provider in self.serving(route))

    async def cancel(self, name: str, response_id: str) -> None:
        """Let a reply end that its server goes on writing though nobody wants it any more. Best effort."""
        for provider in self._providers:
            for key in provider.keys if provider.name == name else ():
                if isinstance(key.backend, ResponsesBackend) and await key.backend.cancel(response_id):
                    return

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
        message: str | None = None,
        on_position: OnPosition | None = None,
        patience: float | None = None,
    ) -> Opened:
        """Return a reply whose first token is there.

        `build` is called with the target that is about to answer, perhaps several times. Where a backend takes small
        talk, `message` decides the tier. `on_position` hears the place in a backend's queue while there is one. Until
        the first token every failure is worked around: other keys, one smaller prompt, other backends of the route,
        then again after a pause. Raises the `BackendError` that tells most when all that fails.
        """
        if message is not None and any(provider.config.small_talk for provider in self.select(route, name=name)):
            tier = self.router.choose(message).tier
        call = Call(build, route, on_position)
        end = self._clock() + (self._patience if patience is None else patience)
        for attempt in range(ROUNDS):
            errors = []
            candidates = self.select(route, tier, name)
            for place, provider in enumerate(candidates):
                config = provider.config
                # the last one's queue is worth waiting in: its place is told, and nobody else is left
                wait = config.queue_patience if place < len(candidates) - 1 else config.timeouts.first_token
                try:
                    opened = await open_at(provider, call, wait, self._learner)
                except BackendError as error:
                    errors.append(error)
                    continue
                if place:
                    metrics.FAILOVERS.labels(route).inc()
                return opened
            worst = most_telling(errors)
            pause = self._pause(errors, attempt)
            if not worst.retryable or attempt == ROUNDS - 1 or self._clock() + pause > end:
                raise worst
            metrics.RETRIES.labels(worst.backend, worst.code).inc()
            await asyncio.sleep(pause)
        raise AssertionError("unreachable")

    async def complete(
        self,
        build: BuildRequest,
        *,
        route: str,
        tier: Tier = "small",
        name: str | None = None,
        patience: float | None = None,
        personal: bool = True,
    ) -> Completion:
        """Return a whole answer; for extraction, summaries and the like.

        With `personal=False` (nothing of any user is in it) the answer may come from the exact-match cache.
        """
        if personal:
            return await self._complete(build, route, tier, name, patience)
        first = self.select(route, tier, name)[0]
        target = first.target(first.model)
        key = key_of(build(target), backend=f"{first.name} {first.model}", route=route)
        codec = CompletionCodec(target)
        return await self.cache.get(key, lambda: self._complete(build, route, tier, name, patience), codec)

    async def _complete(
        self, build: BuildRequest, route: str, tier: Tier, name: str | None, patience: float | None
    ) -> Completion:
        opened = await self.open_stream(build, route=route, tier=tier, name=name, patience=patience)
        text: list[str] = []
        finish, usage = "stop", None
        async with aclosing(opened.deltas) as deltas:
            async for delta in deltas:
                if delta.retract:
                    text.clear()
                text.append(delta.text)
                finish = delta.finish_reason or finish
                usage = delta.usage or usage
        return Completion("".join(text), opened.target, finish, usage)

    def routes_of(self, provider: Provider) -> list[str]:
        """The routes on which this backend may answer."""
        routes = self._policies.routes if self._policies is not None else provider.config.routes
        return [route for route in routes if provider in self.serving(route)]

    def reload(self, configs: Sequence[BackendConfig]) -> None:
        """Apply a new configuration; replies that are being read go on with what they began with."""
        self._apply(configs)
        metrics.RELOADS.labels("applied").inc()
        if unknown := self.unknown_backends():
            log.warning("route_names_unknown_backends", backends=unknown)

    def follow(self, load: Callable[[], Sequence[BackendConfig]], path: Path | None) -> None:
        """Apply changes of the file that the configuration was read from, as it is written and on SIGHUP.

        Without a file there is nothing to read anew, and SIGHUP keeps its usual meaning.
        """
        if path is not None:
            follow = follow_configuration(self.reload, load, path=path)
            self._following = asyncio.create_task(follow, name="backends-file")

    async def aclose(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)
        if self._learner is not None:
            await self._learner.aclose()
        if self._merging is not None:
            self._merging.cancel()
            await asyncio.gather(self._merging, return_exceptions=True)
            await self._ledger.merge()
        await self._session.close()

    def _apply(self, configs: Sequence[BackendConfig]) -> None:
        kept = {provider.name: provider for provider in self._providers}
        providers = []
        for config in configs:
            old = kept.get(config.name)
            if old is not None and old.config == config:
                providers.append(old)
                continue
            provider = build_provider(config, self._session, self._clock, self._ledger)
            providers.append(provider)
            if self._learner is not None:
                self._learner.watch(provider)
        self._providers = providers
        for gone in kept.keys() - {config.name for config in configs}:
            metrics.CIRCUIT_OPEN.remove(gone)
        if self._learner is not None:
            self._learner.keep_only(providers)
        if self._merging is None and any(
            config.prices.prompt or config.prices.completion or config.prices.embedding for config in configs
        ):
            self._merging = asyncio.create_task(self._ledger.keep_merged(), name="spend")

    def _pause(self, errors: Sequence[BackendError], attempt: int) -> float:
        """Return how long to wait: what the soonest server asked for, never less than a growing, jittered pause."""
        asked = min(
            (error.retry_after for error in errors if error.retryable and error.retry_after is not None), default=0.0
        )
        most = min(LONGEST_BACKOFF, BACKOFF * 2**attempt)
        return asked + self._rng.uniform(most / 4, most)


def _serves(config: BackendConfig, route: str, policy: RoutePolicy | None) -> bool:
    if policy is not None and not policy.allows_backend(config.name):
        return False
    if policy is not None and policy.backends is not None and "routes" not in config.model_fields_set:
        return True  # the policy names it, and the entry says nothing of routes
    return route in config.routes
