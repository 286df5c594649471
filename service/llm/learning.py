"""Learns in the background what each provider's model can do, and keeps it fresh."""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import structlog

from service.llm.capabilities import LIFETIME, Capabilities, CapabilityStore
from service.llm.errors import BackendError
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.probing import identify, learn, published_context
from service.llm.providers import Provider

log = structlog.get_logger(__name__)

FIRST_PAUSE = 2.0
LONGEST_PAUSE = 60.0
PATIENCE = 2.0
"""Seconds a turn waits to hear a model's context length when nobody knows it yet."""


class Learner:
    """Probes providers one by one; what it learns is stored, so that a restart need not ask again."""

    def __init__(self, store: CapabilityStore) -> None:
        self._store = store
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def watch(self, provider: Provider) -> None:
        """Keep `provider.capabilities` known from now on."""
        if provider.scripted:
            return
        if provider.config.is_openai:
            provider.capabilities = Capabilities(
                server="openai", context_length=published_context(provider.model), prefill="refuses"
            )
            return
        if provider.model:
            provider.learnt(self._store.get(provider.config.url, provider.model) or provider.capabilities)
        self._tasks[id(provider)] = asyncio.create_task(self._keep(provider), name=f"learn-{provider.name}")

    def keep_only(self, providers: Sequence[Provider]) -> None:
        """Stop watching all others."""
        for gone in self._tasks.keys() - {id(provider) for provider in providers}:
            self._tasks.pop(gone).cancel()

    async def context_known(self, provider: Provider) -> None:
        """Ask for the context length once, before the first prompt is built, when it is not known yet."""
        backend = provider.backend
        if provider.asked_context or not isinstance(backend, OpenAICompatibleBackend):
            return
        provider.asked_context = True
        if provider.config.context_length or provider.capabilities.context_length:
            return
        with contextlib.suppress(BackendError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                identity = await identify(backend, await backend.resolve_model())
            provider.capabilities = replace(
                provider.capabilities, server=identity.server, context_length=identity.context_length
            )

    async def aclose(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _keep(self, provider: Provider) -> None:
        pause = FIRST_PAUSE
        while True:
            learnt = await self._learn(provider)
            pause = LIFETIME if learnt else min(pause * 2, LONGEST_PAUSE)
            await asyncio.sleep(pause)

    async def _learn(self, provider: Provider) -> bool:
        backend = provider.backend
        if not isinstance(backend, OpenAICompatibleBackend):
            return True
        try:
            model = await backend.resolve_model()
            known = self._store.get(provider.config.url, model)
            if known is None:
                waking = partial(provider.warming, model)
                known = await learn(backend, model, known=provider.capabilities, waking=waking)
                self._store.put(provider.config.url, model, known)
        except BackendError as error:
            log.info("backend_not_learnt", backend=provider.name, code=error.code)
            return False
        provider.learnt(known)
        log.info("backend_learnt", backend=provider.name, server=known.server, prefill=known.prefill)
        return True
