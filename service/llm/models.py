"""What servers say about their models: OpenAI's list, LM Studio's native lists, llama.cpp's properties."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from service.llm.errors import BackendInterruptedError, ModelNotFoundError

_NOT_FOR_CHAT = re.compile(
    r"embed|rerank|whisper|tts|dall-e|gpt-image|sora|moderation|transcribe|realtime|bge-|minilm|davinci|babbage|audio|codex",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model in a server's memory; `context_length` is what it was loaded with, not what it could have."""

    key: str
    context_length: int | None = None


def listed_models(answer: Any) -> tuple[str, ...]:
    """Return the ids of a GET /v1/models answer. Raises `BackendInterruptedError` when it is none."""
    data = answer.get("data") if isinstance(answer, dict) else answer
    if not isinstance(data, list):
        raise BackendInterruptedError("the list of models has no data")
    return tuple(item["id"] for item in data if isinstance(item, dict) and isinstance(item.get("id"), str))


def chat_model_of(ids: Sequence[str], *, backend: str) -> str:
    """Return the first id that is not an embedder or the like. Raises `ModelNotFoundError`."""
    for model in ids:
        if not _NOT_FOR_CHAT.search(model):
            return model
    raise ModelNotFoundError("the server lists no chat model: load one, or name one in `model`", backend=backend)


def loaded_models(answer: Any) -> tuple[LoadedModel, ...]:
    """Return the chat models that LM Studio holds in memory, from /api/v1/models or /api/v0/models."""
    if not isinstance(answer, dict):
        return ()
    found = []
    for item in answer.get("models") or answer.get("data") or ():
        if not isinstance(item, dict) or item.get("type") in {"embedding", "embeddings"}:
            continue
        for instance in item.get("loaded_instances") or ():
            config = instance.get("config") or {}
            found.append(
                LoadedModel(str(instance.get("id") or item.get("key")), _positive(config.get("context_length")))
            )
        if item.get("state") == "loaded":
            found.append(LoadedModel(str(item.get("id")), _positive(item.get("loaded_context_length"))))
    return tuple(found)


def is_asleep(answer: Any, model: str) -> bool:
    """Tell whether LM Studio has the embedding model `model` and not in memory, from /api/v1/models."""
    item = _native(answer, model)
    return item.get("type") == "embedding" and item.get("loaded_instances") == []


def native_type(answer: Any, model: str) -> str:
    """Return what LM Studio takes `model` for ("llm", "embedding"), from /api/v1/models; empty when it doesn't say."""
    return str(_native(answer, model).get("type") or "")


def _native(answer: Any, model: str) -> dict[str, Any]:
    models = answer.get("models") if isinstance(answer, dict) else None
    for item in models if isinstance(models, list) else ():
        if isinstance(item, dict) and item.get("key") == model:
            return item
    return {}


def listed_context(answer: Any, model: str) -> int | None:
    """Return the context that the OpenAI list tells for `model`: each server names it differently."""
    for item in (answer.get("data") or ()) if isinstance(answer, dict) else ():
        if isinstance(item, dict) and item.get("id") == model:
            meta = item.get("meta") or {}
            for value in (
                item.get("max_model_len"),
                item.get("context_length"),
                item.get("context_window"),
                meta.get("n_ctx"),
            ):
                if found := _positive(value):
                    return found
    return None


def props_context(answer: Any) -> int | None:
    """Return the context of one slot from llama.cpp's GET /props."""
    if not isinstance(answer, dict):
        return None
    settings = answer.get("default_generation_settings") or {}
    return _positive(settings.get("n_ctx")) or _positive(answer.get("n_ctx"))


def _positive(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
