"""One call of one provider: permit, warm-up, first token, accounting; and what a caller asked for."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from service.llm import metrics
from service.llm.errors import BackendError, QueueTimeoutError
from service.llm.permits import OnPosition, QueueFullError
from service.llm.ports import ChatRequest, Delta, Target, Usage
from service.llm.providers import Key, Provider
from service.llm.tokens import prompt_tokens

BuildRequest = Callable[[Target], ChatRequest]
READY = Delta()
"""The first thing a reply yields: its first token is there, and this backend answers."""


@dataclass(frozen=True, slots=True)
class Call:
    """What is asked, whoever will answer."""

    build: BuildRequest
    route: str
    on_position: OnPosition | None = None


async def reply(
    provider: Provider,
    key: Key,
    request: ChatRequest,
    target: Target,
    *,
    patience: float,
    on_position: OnPosition | None,
) -> AsyncGenerator[Delta, None]:
    """Yield `READY` once the first token is there, then the deltas. Whatever ends it gives the permit back."""
    until = asyncio.get_running_loop().time() + patience
    await _permit(provider, until, on_position)
    metrics.IN_USE.labels(provider.name).inc()
    key.used += 1
    key.circuit.attempt()
    provider.circuit.attempt()
    outcome = "abandoned"
    started = provider.clock()
    try:
        async with aclosing(key.backend.stream(request)) as deltas:
            async with provider.warming(target.model, until=until, on_position=on_position):
                first = await anext(deltas, None)
            held = await _until_text(first, deltas, request)
            metrics.FIRST_TOKEN.labels(provider.name).observe(provider.clock() - started)
            provider.woken[target.model] = provider.clock()
            provider.circuit.succeed()
            key.circuit.succeed()
            key.refused = None
            yield READY
            for delta in held:
                if delta.finish_reason is not None:
                    outcome = "completed"
                    _settle(provider, request, target, delta.usage)
                yield delta
            async for delta in deltas:
                if delta.finish_reason is not None:
                    outcome = "completed"
                    _settle(provider, request, target, delta.usage)
                yield delta
    except BackendError as error:
        outcome = error.code
        provider.blame(key, error)
        raise
    finally:
        if outcome == "abandoned":
            provider.circuit.abandon()
            key.circuit.abandon()
        provider.permits.release()
        metrics.IN_USE.labels(provider.name).dec()
        metrics.CALLS.labels(provider.name, outcome).inc()


async def _until_text(first: Delta | None, deltas: AsyncIterator[Delta], request: ChatRequest) -> list[Delta]:
    """Return what comes up to the first text; who asked to hear the model think hears it meanwhile."""
    held: list[Delta] = []
    delta = first
    while delta is not None:
        if delta.reasoning and request.on_thought is not None:
            request.on_thought(delta.reasoning)
            delta = replace(delta, reasoning="")
        held.append(delta)
        if delta.text or delta.finish_reason is not None:
            break
        delta = await anext(deltas, None)
    return held


async def _permit(provider: Provider, until: float, on_position: OnPosition | None) -> None:
    if provider.permits.is_free:
        await provider.permits.acquire()
        return
    started = provider.clock()
    metrics.WAITING.labels(provider.name).inc()
    try:
        async with asyncio.timeout_at(until):
            await provider.permits.acquire(on_position)
    except (TimeoutError, QueueFullError) as error:
        raise QueueTimeoutError("all its permits are taken", backend=provider.name) from error
    finally:
        metrics.WAITING.labels(provider.name).dec()
        metrics.QUEUE_SECONDS.labels(provider.name).observe(provider.clock() - started)


def _settle(provider: Provider, request: ChatRequest, target: Target, usage: Usage | None) -> None:
    """Count what the server counted, pay for it, and learn how far the estimate was off."""
    if usage is None:
        return
    counter = provider.counter(target.model)
    estimated = prompt_tokens(request.messages, counter) + counter.count(request.prefix)
    if estimated and not target.scripted:
        metrics.ESTIMATE.labels(provider.name).observe(usage.prompt_tokens / estimated)
        counter.learn(estimated, usage.prompt_tokens)
    metrics.TOKENS.labels(provider.name, target.model, "prompt").inc(usage.prompt_tokens)
    metrics.TOKENS.labels(provider.name, target.model, "completion").inc(usage.completion_tokens)
    if cost := provider.cost(usage):
        provider.budget.add(cost)
        metrics.COST.labels(provider.name, target.model).inc(cost)
