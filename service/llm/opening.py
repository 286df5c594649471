"""Begins a reply at one provider: each of its keys, one smaller prompt, one longer reply."""

from collections.abc import Sequence
from dataclasses import replace

from service.llm import metrics
from service.llm.calls import Call, reply
from service.llm.errors import (
    BackendBusyError,
    BackendError,
    BudgetSpentError,
    CannotContinueError,
    ContextOverflowError,
    EmptyReplyError,
    KeyRefusedError,
    ModelNotFoundError,
    QueueTimeoutError,
)
from service.llm.learning import Learner
from service.llm.ports import Opened
from service.llm.providers import Key, Provider

MORE_ROOM = 4
"""A reply whose whole budget went into thinking is asked for once more with this many times the tokens."""
MOST_REPLY_TOKENS = 8192


async def open_at(provider: Provider, call: Call, wait: float, learner: Learner | None) -> Opened:
    """Try one provider: each of its keys, one smaller prompt, one longer reply."""
    await provider.budget.known()
    if provider.budget.is_exhausted:
        metrics.BUDGET_EXHAUSTED.labels(provider.name).inc()
        rest = provider.budget.wait()
        raise BudgetSpentError("its daily budget is spent", backend=provider.name, retry_after=rest)
    limit: int | None = None
    room = 1
    for _ in range(len(provider.keys) + 2):
        key = provider.key() if not provider.circuit.is_open else None
        if key is None:
            raise provider.rest_reason()
        try:
            return await _begin(provider, key, call, wait, learner, limit=limit, room=room)
        except ContextOverflowError as error:
            metrics.OVERFLOWS.labels(provider.name).inc()
            if limit is not None:
                raise
            provider.heed(error.limit)
            limit = min(error.limit or provider.context() // 2, provider.context())
        except ModelNotFoundError:
            if provider.config.model or not provider.forget_model():
                raise
        except EmptyReplyError as error:
            if room > 1 or error.finish_reason != "length":
                raise
            room = MORE_ROOM
        except (KeyRefusedError, BackendBusyError) as error:
            # the queue is the server's, not a key's: another key would begin at its end again
            if isinstance(error, QueueTimeoutError) or provider.key() is None or len(provider.keys) == 1:
                raise
    raise BackendBusyError("all its keys are refused or busy", backend=provider.name)


async def _begin(
    provider: Provider, key: Key, call: Call, wait: float, learner: Learner | None, *, limit: int | None, room: int
) -> Opened:
    try:
        model = await key.backend.resolve_model()
    except BackendError as error:
        provider.blame(key, error)
        raise
    if learner is not None:
        await learner.context_known(provider)
    target = provider.target(model, limit=limit)
    request = call.build(target)
    if room > 1 and request.max_tokens is not None:
        request = replace(request, max_tokens=min(MOST_REPLY_TOKENS, request.max_tokens * room))
    if request.prefix and not provider.continues() and not provider.scripted:
        raise CannotContinueError("not known to continue a begun reply", backend=provider.name)
    deltas = reply(provider, key, replace(request, model=model), target, patience=wait, on_position=call.on_position)
    try:
        await anext(deltas)
    except BaseException:
        await deltas.aclose()
        raise
    return Opened(target, deltas)


def most_telling(errors: Sequence[BackendError]) -> BackendError:
    """Return the error to act on: one that passes with time before one that stays, then the soonest."""
    for error in errors:
        if isinstance(error, CannotContinueError):
            return error
    passing = [error for error in errors if error.retryable]
    if not passing:
        return errors[0]
    return min(passing, key=lambda error: error.retry_after if error.retry_after is not None else 5.0)
