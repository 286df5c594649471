"""Finds out what a server can do by asking it, a little at a time."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import orjson

from service.llm.capabilities import Capabilities, PrefillGrade, SchemaSupport
from service.llm.errors import (
    BackendError,
    BackendRefusedError,
    CannotContinueError,
    EmptyReplyError,
)
from service.llm.models import listed_context, loaded_models, props_context
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.ports import ChatMessage, ChatRequest, Delta
from service.llm.reasoning import may_open_thinking

SENTENCE = "The quick brown fox jumps over the lazy dog."
BEGUN = "The quick brown fox jumps over"
THINKING_ROOM = 1000
"""Tokens for a model that thinks before it answers."""
SCHEMA: dict[str, Any] = {
    "title": "colour",
    "type": "object",
    "properties": {"colour": {"type": "string", "enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
}

Waking = Callable[[], AbstractAsyncContextManager[None]]
"""Entered until a call's first token is there: whoever needs the model meanwhile waits for that, and for no more."""

# Contexts that OpenAI publishes for its families; its API does not tell them.
_PUBLISHED = (
    (re.compile(r"^gpt-5|^gpt-[6-9]"), 272_000),
    (re.compile(r"^gpt-4\.1"), 1_000_000),
    (re.compile(r"^o\d"), 200_000),
    (re.compile(r"^gpt-4o|^chatgpt|^gpt-4-turbo"), 128_000),
    (re.compile(r"^gpt-4"), 8192),
    (re.compile(r"^gpt-3\.5"), 16_385),
)


@dataclass(frozen=True, slots=True)
class Identity:
    """Which program answers, and the context its model was loaded with."""

    server: str
    context_length: int | None


async def identify(backend: OpenAICompatibleBackend, model: str) -> Identity:
    """Return what the server's own lists say. Raises a `BackendError` when it lists nothing."""
    if backend.config.is_openai:
        return Identity("openai", published_context(model))
    listed = await backend.get("/models")
    native, old_native, props = await asyncio.gather(
        *(_quietly(backend, path) for path in ("/api/v1/models", "/api/v0/models", "/props"))
    )
    if _is_lmstudio(native) or _is_lmstudio(old_native):
        loaded = [*loaded_models(native), *loaded_models(old_native)]
        return Identity("lmstudio", next((found.context_length for found in loaded if found.key == model), None))
    if context := props_context(props):
        return Identity("llamacpp", context)
    context = listed_context(listed, model)
    return Identity(_server_in(listed), context)


def _is_lmstudio(native: Any) -> bool:
    models = (native.get("models") or native.get("data")) if isinstance(native, dict) else None
    return isinstance(models, list) and any(
        isinstance(item, dict) and ("loaded_instances" in item or "loaded_context_length" in item or "state" in item)
        for item in models
    )


def _server_in(listed: Any) -> str:
    """Return the program that writes such a list of models: each adds fields of its own."""
    for item in (listed.get("data") or ()) if isinstance(listed, dict) else ():
        if isinstance(item, dict):
            owner = str(item.get("owned_by", "")).lower()
            if owner in {"llamacpp", "vllm"}:
                return owner
            if item.get("max_model_len"):
                return "vllm"
    return ""


async def learn(
    backend: OpenAICompatibleBackend,
    model: str,
    *,
    known: Capabilities | None = None,
    waking: Waking = nullcontext,
) -> Capabilities:
    """Return what replies depend on: the context length, and whether a begun reply can be continued."""
    identity = await identify(backend, model)
    record = replace(known or Capabilities(), server=identity.server, context_length=identity.context_length)
    if backend.config.continues is None:
        record = replace(record, prefill=await probe_prefill(backend, model, identity.server, waking))
    if record.reasoning == "unknown" and may_open_thinking(model):
        # one short reply now, or the first reader waits for a whole reply until it is known what is thought in it
        record = await _probe_reply(backend, model, record, waking)
    return replace(record, probed_at=time.time())


async def examine(backend: OpenAICompatibleBackend, model: str) -> Capabilities:
    """Return a whole record; a handful of short calls."""
    record = await learn(backend, model)
    record = await _probe_reply(backend, model, record)
    width = await probe_embeddings(backend)
    return replace(record, structured=await probe_schema(backend, model), embedding_width=width, probed_at=time.time())


async def probe_prefill(
    backend: OpenAICompatibleBackend, model: str, server: str, waking: Waking = nullcontext
) -> PrefillGrade:
    """Begin a well-known sentence: a continuation ends it, a new reply or a doubled one says its beginning again."""
    dialect = backend.dialect(model)
    if dialect.prefill == "none":
        return "refuses"
    backend.use_dialect(model, replace(dialect, prefill="vllm" if server == "vllm" else "trailing"))
    request = ChatRequest(
        messages=(ChatMessage("user", f"Repeat this sentence exactly: {SENTENCE} say:{SENTENCE}"),),
        model=model,
        max_tokens=24,
        temperature=0.0,
        prefix=BEGUN,
        extra={"cache_prompt": True} if server == "llamacpp" else {},
    )
    try:
        text = "".join([delta.text async for delta in _waking(backend.stream(request, guarded=False), waking)])
    except CannotContinueError:
        grade: PrefillGrade = "refuses"
    except EmptyReplyError:
        grade = "unknown"
    except BackendRefusedError:
        grade = "refuses"
    else:
        grade = graded(text)
    if grade in {"refuses", "restarts"}:
        backend.use_dialect(model, replace(backend.dialect(model), prefill="none"))
    return grade


def graded(text: str) -> PrefillGrade:
    """Return what kind of answer to the begun sentence `text` is; small models may miss a word of it."""
    if "dog" not in text:
        return "restarts"
    if "quick" not in text:
        return "continues"
    return "doubles" if text.lstrip().startswith(BEGUN) and text.count("quick") == 1 else "restarts"


async def probe_schema(backend: OpenAICompatibleBackend, model: str) -> SchemaSupport:
    """Return the strictest form of structured answer that brings JSON of the schema."""
    request = ChatRequest(
        messages=(ChatMessage("user", "Which colour is grass? Answer in JSON."),),
        model=model,
        max_tokens=60,
        temperature=0.0,
        schema=SCHEMA,
    )
    try:
        text = "".join([delta.text for delta in await _patiently(backend, request)])
        answer = orjson.loads(text[text.find("{") : text.rfind("}") + 1])
    except (BackendError, orjson.JSONDecodeError):
        return "none"
    return backend.dialect(model).structured if isinstance(answer, dict) else "none"


async def probe_embeddings(backend: OpenAICompatibleBackend) -> int | None:
    """Return the width of the configured embedding model's vectors, or None when it gives none."""
    if not backend.config.embedding_model:
        return None
    try:
        answer = await backend.post(
            "/embeddings", {"model": backend.config.embedding_model, "input": ["hello"]}, timeout=60
        )
        return len(answer["data"][0]["embedding"])
    except (BackendError, KeyError, IndexError, TypeError):
        return None


def published_context(model: str) -> int | None:
    """Return the context length that OpenAI publishes for a model's family."""
    name = model.removeprefix("openai/")
    return next((tokens for pattern, tokens in _PUBLISHED if pattern.search(name)), None)


async def _probe_reply(
    backend: OpenAICompatibleBackend, model: str, record: Capabilities, waking: Waking = nullcontext
) -> Capabilities:
    """Ask for a short reply and see in how many pieces it comes, with what beside it, and how soon."""
    request = ChatRequest(
        messages=(ChatMessage("system", "You are brief."), ChatMessage("user", "Say hello in five words.")),
        model=model,
        max_tokens=64,
        temperature=0.0,
    )
    first: list[float] = []
    try:
        deltas = await _patiently(backend, request, first, waking)
    except EmptyReplyError:
        return replace(record, reasoning="always", first_token_seconds=first[0] if first else None)
    pieces = sum(bool(delta.text) for delta in deltas)
    return replace(
        record,
        streams=pieces > 1,
        usage=deltas[-1].usage is not None,
        reasoning="unopened" if backend.dialect(model).opens_thinking else backend.reasoning.get(model, "none"),
        first_token_seconds=first[0],
    )


async def _patiently(
    backend: OpenAICompatibleBackend,
    request: ChatRequest,
    first: list[float] | None = None,
    waking: Waking = nullcontext,
) -> list[Delta]:
    """Return the deltas of a whole reply; one that was all thinking gets more room once. `first` hears when it began."""
    try:
        return [delta async for delta in _waking(backend.stream(request), waking, first)]
    except EmptyReplyError:
        if (request.max_tokens or THINKING_ROOM) >= THINKING_ROOM:
            raise
        return await _patiently(backend, replace(request, max_tokens=THINKING_ROOM), first, waking)


async def _waking(
    deltas: AsyncGenerator[Delta], waking: Waking, seconds: list[float] | None = None
) -> AsyncGenerator[Delta]:
    """Yield the same deltas, the first of which comes under `waking`; `seconds` hears how long it took."""
    async with aclosing(deltas):
        async with waking():
            started = time.monotonic()
            first = await anext(deltas, None)
        if first is not None:
            if seconds is not None and not seconds:
                seconds.append(time.monotonic() - started)
            yield first
        async for delta in deltas:
            yield delta


async def _quietly(backend: OpenAICompatibleBackend, path: str) -> Any:
    """Return the answer of an address below the server's root that only some programs have."""
    try:
        return await backend.get(path, root=True, timeout=3.0)
    except BackendError:
        return None
