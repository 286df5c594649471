"""A ChatRequest in the words of one dialect: the body of POST /chat/completions."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import orjson

from service.llm.dialect import Dialect
from service.llm.errors import CannotContinueError
from service.llm.ports import ChatMessage, ChatRequest

LOCAL = frozenset({"top_k", "min_p", "repeat_penalty"})
"""Words of llama.cpp, LM Studio, Ollama and vLLM that OpenAI refuses."""
FIXED_WHILE_THINKING = frozenset({"top_p", "presence_penalty", "frequency_penalty"})
"""OpenAI's reasoning models refuse them as they refuse a temperature."""
_SCHEMA_IN_WORDS = "Answer with one JSON object and nothing else. It must match this JSON schema:\n"


def body_for(
    request: ChatRequest,
    model: str,
    dialect: Dialect,
    *,
    stream: bool = True,
    extra: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Any]:
    """Return the JSON body. Raises `CannotContinueError` when a prefix is given and this model can't continue one."""
    messages = _messages(request, dialect)
    body: dict[str, Any] = {"model": model, "messages": messages, "stream": stream}
    if stream and dialect.stream_usage:
        body["stream_options"] = {"include_usage": True}
    if request.max_tokens is not None:
        body[dialect.max_tokens] = request.max_tokens
    if request.temperature is not None and dialect.temperature:
        body["temperature"] = request.temperature
    if request.stop and dialect.stop:
        body["stop"] = list(request.stop[:4])
    body.update(_sampling(request.sampling, dialect))
    if request.user_ref:
        body["user"] = request.user_ref
    if request.schema is not None:
        body.update(_response_format(request.schema, dialect))
    if request.prefix:
        _continue(body, request.prefix, dialect)
    body.update(extra)
    body.update(request.extra)
    for name in dialect.dropped:
        body.pop(name, None)
    return body


def _sampling(wishes: Mapping[str, Any], dialect: Dialect) -> dict[str, Any]:
    """What is wished of sampling in this server's words; what its family doesn't take is left out."""
    body = {}
    for name, value in wishes.items():
        if name in LOCAL and not dialect.local_samplers:
            continue
        if name in FIXED_WHILE_THINKING and not dialect.temperature:
            continue
        body[dialect.repeat_penalty if name == "repeat_penalty" else name] = value
    return body


def _response_format(schema: dict[str, Any], dialect: Dialect) -> dict[str, Any]:
    if dialect.structured in {"json_schema", "loose_schema"}:
        name = str(schema.get("title", "answer")).replace(" ", "_")[:64]
        return {
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": name, "strict": dialect.structured == "json_schema", "schema": schema},
            }
        }
    if dialect.structured == "json_object":
        return {"response_format": {"type": "json_object"}}
    return {}


def _continue(body: dict[str, Any], prefix: str, dialect: Dialect) -> None:
    if dialect.prefill == "none":
        raise CannotContinueError("this model does not continue a reply that was begun")
    # a space at the end belongs to the next word's token; left there, the model tends to make another
    last: dict[str, Any] = {"role": "assistant", "content": prefix.rstrip(" ") or prefix}
    if dialect.prefill == "flag":
        last["prefix"] = True
    if dialect.prefill == "vllm":
        body.update(add_generation_prompt=False, continue_final_message=True)
    body["messages"].append(last)


def _messages(request: ChatRequest, dialect: Dialect) -> list[dict[str, Any]]:
    messages = [message for message in request.messages if message.content or message.role == "user"]
    if request.schema is not None and dialect.structured in {"json_object", "text"}:
        words = _SCHEMA_IN_WORDS + orjson.dumps(request.schema).decode()
        messages = [ChatMessage("system", words), *messages]
    if dialect.system in {"first", "fold"}:
        messages = _system_first(messages)
    if dialect.system == "fold":
        messages = _folded(messages)
    if dialect.alternate or dialect.system == "fold":
        messages = _joined(messages)
    system = "developer" if dialect.system == "developer" else "system"
    return [
        {"role": system if message.role == "system" else message.role, "content": message.content}
        for message in messages
    ]


def _system_first(messages: list[ChatMessage]) -> list[ChatMessage]:
    system = "\n\n".join(message.content for message in messages if message.role == "system")
    rest = [message for message in messages if message.role != "system"]
    return [ChatMessage("system", system), *rest] if system else rest


def _folded(messages: list[ChatMessage]) -> list[ChatMessage]:
    if not messages or messages[0].role != "system":
        return messages
    system, rest = messages[0], messages[1:]
    if rest and rest[0].role == "user":
        return [ChatMessage("user", f"{system.content}\n\n{rest[0].content}"), *rest[1:]]
    return [ChatMessage("user", system.content), *rest]


def _joined(messages: list[ChatMessage]) -> list[ChatMessage]:
    joined: list[ChatMessage] = []
    for message in messages:
        if joined and joined[-1].role == message.role:
            joined[-1] = ChatMessage(message.role, f"{joined[-1].content}\n\n{message.content}")
        else:
            joined.append(message)
    return joined
