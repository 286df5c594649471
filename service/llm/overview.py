"""What the pool's backends are doing, for operators: no whole key, and no word that anybody said."""

import math
from typing import Any
from urllib.parse import urlsplit

from service.llm.breaker import CircuitBreaker
from service.llm.pool import Backends
from service.llm.providers import Key, Provider


def describe(backends: Backends) -> list[dict[str, Any]]:
    """Each backend in the order in which it is asked."""
    return [_described(backends, provider) for provider in backends.providers]


def router_choices(backends: Backends) -> list[dict[str, Any]]:
    """How often each tier was chosen for a reply, and why, since this process began."""
    counted = sorted(backends.router.choices.items(), key=lambda item: -item[1])
    return [{"tier": choice.tier, "reason": choice.reason, "count": count} for choice, count in counted]


def cache_use(backends: Backends) -> dict[str, Any]:
    """Of the exact-match cache, since this process began."""
    cache = backends.cache
    return {
        "hits": cache.hits,
        "shared_hits": cache.shared_hits,
        "misses": cache.misses,
        "hit_rate": round(cache.hit_rate, 4),
        "entries": len(cache),
    }


def _described(backends: Backends, provider: Provider) -> dict[str, Any]:
    config, record = provider.config, provider.capabilities
    return {
        "name": provider.name,
        "kind": config.kind,
        "address": _address(config.url),
        "model": provider.model,
        "scripted": provider.scripted,
        "routes": backends.routes_of(provider),
        "tier": config.tier,
        "small_talk": config.small_talk,
        "state": _state(provider),
        "retry_in": math.ceil(provider.wait()),
        "breaker": _breaker(provider.circuit),
        "keys": [_key(number, key) for number, key in enumerate(provider.keys, 1) if config.api_keys],
        "permits": {
            "limit": provider.permits.limit,
            "in_use": provider.permits.in_use,
            "waiting": provider.permits.waiting,
        },
        "budget": {
            "daily": provider.budget.limit,
            "spent_today": round(provider.budget.spent, 6),
            "spent_up": provider.budget.is_exhausted,
            "resets_in": math.ceil(provider.budget.wait()),
        },
        "capabilities": {
            "server": record.server,
            "context_length": provider.context(),
            "structured": record.structured,
            "prefill": record.prefill,
            "continues": provider.continues(),
            "reasoning": record.reasoning,
            "streams": record.streams,
            "usage": record.usage,
            "embedding_width": record.embedding_width,
            "first_token_seconds": record.first_token_seconds,
            "probed_at": record.probed_at or None,
        },
    }


def _state(provider: Provider) -> str:
    if provider.budget.is_exhausted:
        return "budget_spent"
    if all(key.refused is not None and key.circuit.wait() for key in provider.keys):
        return "keys_refused"
    return "resting" if provider.is_resting else "ready"


def _breaker(circuit: CircuitBreaker) -> dict[str, Any]:
    return {
        "open": circuit.is_open,
        "tried": circuit.is_tried,
        "failures_in_a_row": circuit.failures,
        "retry_in": math.ceil(circuit.wait()),
    }


def _key(number: int, key: Key) -> dict[str, Any]:
    """A key without a rest whose one call is out is `tried`: no other call is made with it."""
    breaker = _breaker(key.circuit)
    state = ("refused" if key.refused is not None else "resting") if breaker["retry_in"] else "ready"
    if state == "ready" and breaker["tried"]:
        state = "tried"
    return {
        "number": number,
        "ends_with": key.last,
        "state": state,
        "retry_in": breaker["retry_in"],
        "breaker": breaker,
        "calls": key.used,
    }


def _address(url: str) -> str:
    """Without the user and password that a url may hold."""
    parts = urlsplit(url)
    host = f"{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}"
    return f"{parts.scheme}://{host}{parts.path}" if url else ""
