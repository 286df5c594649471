"""Calls of an app itself, about nobody: no conversation, no memories, nothing stored; at temperature 0 answered once.

An app has questions of its own: a companion's greeting in ten languages, a title for a list, a card put into other
words. `metadata: {"purpose": "app"}` asks for such an answer. Only who speaks for no user may: an app's API key without
X-Rapport-User, or an operator. So nothing personal gets into the cache that all of them share
(docs/decisions/app-calls.md).
"""

import time
from typing import Any
from uuid import uuid4

import orjson
from fastapi import Request
from starlette.responses import JSONResponse, Response

from service.auth.dependencies import USER_HEADER
from service.chat.sampling import chosen, sampled
from service.errors import ForbiddenError, InvalidRequestError
from service.llm.answers import Completion as Answer
from service.llm.ports import ChatMessage, ChatRequest, Role, Target
from service.openai.schemas import CompletionRequest
from service.principal import Principal
from service.runtime import Runtime

PURPOSE, APP = "purpose", "app"
ROLES: dict[str, Role] = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def is_app_call(body: CompletionRequest) -> bool:
    return (body.metadata or {}).get(PURPOSE) == APP


def check(request: Request, caller: Principal, context: Runtime, body: CompletionRequest, route: str) -> None:
    """Raises `ForbiddenError` for whoever may speak for a user, and on routes that ask for an age."""
    speaks_for_nobody = caller.via_server and USER_HEADER not in request.headers
    if not speaks_for_nobody and not caller.is_operator:
        raise ForbiddenError(
            "Calls with purpose `app` are an app's own: send its API key without X-Rapport-User.",
            code="app_call_not_allowed",
        )
    if context.policies.routes[route].assurance is not None:
        raise ForbiddenError(
            f"The route {route!r} is for users whose age is known; an app's own calls are about nobody.",
            code="app_call_not_allowed",
        )
    if (body.metadata or {}).get("conversation_id"):
        raise InvalidRequestError("An app's own call belongs to no conversation.", param="metadata")


async def answer(context: Runtime, body: CompletionRequest, route: str, backend: str | None) -> Response:
    """The whole answer, in one piece also where a stream was asked for."""
    wishes = chosen(body.sampling())
    messages = tuple(
        ChatMessage(ROLES[message.role], message.text)
        for message in body.messages
        if message.role in ROLES and message.text
    )

    def build(target: Target) -> ChatRequest:
        longest = min(context.settings.reply_max_tokens, target.reply_tokens)
        request = ChatRequest(messages=messages, max_tokens=longest, schema=_schema(body))
        return sampled(request, wishes, shown=0)

    done = await context.backends.complete(
        build, route=route, tier="large", name=backend, personal=wishes.get("temperature") != 0
    )
    return _streamed(body, done) if body.stream else JSONResponse(_completion(body, done))


def _schema(body: CompletionRequest) -> dict[str, Any] | None:
    form = (body.model_extra or {}).get("response_format")
    match form:
        case {"type": "json_schema", "json_schema": {"schema": dict() as schema}}:
            return schema
        case {"type": "json_object"}:
            return {"type": "object"}
    return None


def _head(body: CompletionRequest, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{uuid4().hex}", "object": kind, "created": int(time.time()), "model": body.model}


def _usage(done: Answer) -> dict[str, int]:
    prompt, completion = (done.usage.prompt_tokens, done.usage.completion_tokens) if done.usage else (0, 0)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}


def _completion(body: CompletionRequest, done: Answer) -> dict[str, Any]:
    message = {"role": "assistant", "content": done.text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": done.finish_reason}
    return {**_head(body, "chat.completion"), "choices": [choice], "usage": _usage(done)}


def _streamed(body: CompletionRequest, done: Answer) -> Response:
    head = _head(body, "chat.completion.chunk")
    said = {"index": 0, "delta": {"role": "assistant", "content": done.text}, "logprobs": None, "finish_reason": None}
    ended = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": done.finish_reason}
    chunks: list[dict[str, Any]] = [{**head, "choices": [said]}, {**head, "choices": [ended]}]
    if body.stream_options and body.stream_options.include_usage:
        chunks.append({**head, "choices": [], "usage": _usage(done)})
    events = b"".join(b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks)
    return Response(events + b"data: [DONE]\n\n", media_type="text/event-stream", headers={"Cache-Control": "no-store"})
