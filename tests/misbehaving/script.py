"""What the misbehaving server says when it behaves: numbered words, so that a lost or doubled one is seen."""

from typing import Any

import orjson

WORDS = tuple(f"word{number} " for number in range(1, 21))
REPLY = "".join(WORDS).rstrip()
THOUGHT = " ".join(f"thought{number}" for number in range(1, 31))


def chunk(
    model: str,
    *,
    content: str | None = None,
    finish: str | None = None,
    usage: dict[str, int] | None = None,
    choices: bool = True,
    **fields: Any,
) -> bytes:
    """Return one event of a stream as OpenAI writes it."""
    delta: dict[str, Any] = {} if content is None else {"content": content}
    delta.update(fields)
    body: dict[str, Any] = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1,
        "model": model,
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}] if choices else [],
    }
    if usage is not None:
        body["usage"] = usage
    return event(body)


def event(body: Any) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


DONE = b"data: [DONE]\n\n"


def usage_of(messages: list[dict[str, Any]], words: int) -> dict[str, int]:
    prompt = sum(len(str(message.get("content", "")).split()) for message in messages)
    return {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}


def rest_of(prefix: str, reply: str = REPLY) -> str:
    """Return what comes after `prefix` in the reply, whatever blank space the prefix ends with."""
    begun = prefix.rstrip()
    if not reply.startswith(begun):
        return reply
    rest = reply[len(begun) :]
    return rest.lstrip() if prefix.endswith(" ") else rest
