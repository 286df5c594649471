"""The OpenAI door: clients of Chat Completions get a memory by changing their base URL and key."""

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import Annotated, Any
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Request
from starlette.responses import JSONResponse, Response

from service.auth.dependencies import Caller
from service.chat import events as ev
from service.chat.engine import Send
from service.chat.routes import IdempotencyKey, check_length
from service.chat.sampling import chosen
from service.chat.sse import EventStream
from service.dependencies import Context
from service.errors import ForbiddenError, InvalidRequestError, NotFoundError, RapportError, openai_shape
from service.limits import address_of
from service.openai.app_calls import answer, check, is_app_call
from service.openai.history import Place, Said, instructions, place, spoken
from service.openai.notices import Notices, Shown
from service.openai.schemas import Completion, CompletionRequest, ModelCard, ModelList
from service.problems import problems
from service.runtime import Runtime
from sessions.replies import Event

router = APIRouter(prefix="/v1", tags=["openai"])

STARTED = int(time.time())
DONE = b"data: [DONE]\n\n"
PREFIX = "rapport"


def model_ids(context: Runtime) -> list[str]:
    """What a client's model picker shows: each route, and each backend of the first route by name."""
    routes = [PREFIX if route == "general" else f"{PREFIX}-{route}" for route in context.policies.gate.routes]
    return routes + [f"{PREFIX}/{provider.name}" for provider in context.backends.serving("general")]


LIST = problems({422: "`invalid_request`"}, openai=True)
MODEL = problems({404: "`model_not_found`", 422: "`invalid_request`"}, openai=True)
COMPLETION = problems(
    {
        403: "`route_locked`, `age_assurance_required` or `app_call_not_allowed`",
        404: "`model_not_found` or `conversation_not_found`",
        409: "`turn_in_progress` or `idempotency_conflict`",
        413: "`message_too_large` or `too_large`",
        422: "`invalid_request`, `last_message_not_user`",
        502: "`backend_key_refused`, `backend_no_credit`, `backend_model_missing` and other failures of the model server",
        503: "`store_unavailable` or no backend: try again",
    },
    openai=True,
)


@router.get("/models", summary="List the models that a client may name", responses=LIST)
async def list_models(caller: Caller, context: Context) -> ModelList:  # noqa: ARG001  only callers may look
    return ModelList(data=[ModelCard(id=name, created=STARTED, owned_by="rapport") for name in model_ids(context)])


@router.get("/models/{name:path}", summary="Read one model", responses=MODEL)
async def read_model(name: str, caller: Caller, context: Context) -> ModelCard:  # noqa: ARG001
    _route_and_backend(name, context)
    return ModelCard(id=name, created=STARTED, owned_by="rapport")


@router.post(
    "/chat/completions",
    response_model=Completion,
    responses=COMPLETION,
    summary="Reply to a conversation, as OpenAI's clients ask for it",
)
async def complete(
    request: Request,
    body: CompletionRequest,
    caller: Caller,
    context: Context,
    x_conversation_id: Annotated[UUID | None, Header()] = None,
    idempotency_key: IdempotencyKey = None,
    x_stainless_retry_count: Annotated[str | None, Header(max_length=8)] = None,
    x_rapport_notices: Annotated[Shown, Header()] = "text",
) -> Response:
    """The conversation is `metadata.conversation_id` or `X-Conversation-Id`; else it is recognised by the history sent.

    A resent history is not stored again. The stream carries our event ids, which OpenAI's clients ignore.
    What the user must be told stands before the reply as lines that begin with `> **Notice:**`, and in the field
    `rapport`; a client that shows it from there sends `X-Rapport-Notices: extension`.
    `metadata: {"purpose": "app"}` asks for an answer about nobody, with an app's own API key: nothing is remembered or
    stored, and at temperature 0 the same question may be answered from a cache.
    """
    route, backend = _route_and_backend(body.model, context)
    said = _said(body, context)
    if is_app_call(body):
        check(request, caller, context, body, route)
        async with aclosing(await context.limits.admit(caller, address_of(request), "turn")):
            return await answer(context, body, route, backend)
    named, wishes = _named(body, x_conversation_id), body.sampling()
    admission = await context.limits.admit(caller, address_of(request), "turn")
    try:
        again = (x_stainless_retry_count or "0") != "0"
        where = Place(named) if named else await place(context.database, caller.owner, said, route, again=again)
        options: dict[str, Any] = {"backend": backend} if backend else {}
        if sampling := chosen(wishes):
            options["sampling"] = sampling
        if body.include_reasoning is not None:
            options["reasoning"] = "keep" if body.include_reasoning else "drop"
        if persona := instructions(body.messages):
            options["instructions"] = persona
        message = Send(
            caller.user_id,
            where.conversation_id,
            said[-1].text,
            client_message_id=idempotency_key,
            parent_id=where.parent_id,
            answers=where.answers,
            request=options,
        )
        # a repeated request means the reply it missed; a history sent anew means another reply
        source = await context.chat.send_or_join(message, repeated=again)
        headers = [(b"x-conversation-id", str(where.conversation_id).encode())]
        if body.stream:
            usage = bool(body.stream_options and body.stream_options.include_usage)
            chunks = Chunks(body.model, include_usage=usage, notices=Notices(x_rapport_notices))
            return EventStream(source, chunks.encode, headers=headers, tail=DONE, admission=admission)
        whole = await _whole(source, body.model, where.conversation_id, Notices(x_rapport_notices))
    except BaseException:
        await admission.aclose()
        raise
    await admission.aclose()
    return whole


def _said(body: CompletionRequest, context: Runtime) -> list[Said]:
    """What both sides said; the last of it is what the user says now."""
    said = spoken(body.messages)
    if not said or said[-1].role != "user":
        raise InvalidRequestError(
            "The last message must be the user's, and have text.", code="last_message_not_user", param="messages"
        )
    check_length(context, said[-1].text, param="messages")
    return said


def _named(body: CompletionRequest, header: UUID | None) -> UUID | None:
    given = (body.metadata or {}).get("conversation_id")
    if given is None:
        return header
    try:
        return UUID(str(given))
    except ValueError as error:
        raise InvalidRequestError(
            "metadata.conversation_id must be a UUID.", code="invalid_request", param="metadata"
        ) from error


def _route_and_backend(model: str, context: Runtime) -> tuple[str, str | None]:
    if model not in model_ids(context):
        known = ", ".join(model_ids(context))
        raise NotFoundError(
            f"There is no model {model[:80]!r} here. There are: {known}.", code="model_not_found", param="model"
        )
    name, _, backend = model.partition("/")
    return name.removeprefix(PREFIX).removeprefix("-") or "general", backend or None


class Chunks:
    """Translates a reply's events into chat.completion.chunk objects."""

    def __init__(self, model: str, *, include_usage: bool, notices: Notices) -> None:
        self._model = model
        self._notices = notices
        self._include_usage = include_usage
        self._created = int(time.time())
        self._id = "chatcmpl-"
        self._shown = 0
        self._thought = 0

    def encode(self, event: Event) -> bytes:
        match event.type:
            case ev.ACCEPTED:
                self._id = f"chatcmpl-{orjson.loads(event.data)['turn_id']}"
                return self._chunk(event, {"role": "assistant", "content": ""})
            case ev.DELTA:
                text = orjson.loads(event.data)["text"]
                self._shown += len(text)
                return self._chunk(event, {"content": text})
            case ev.REASONING:
                thought = orjson.loads(event.data)["text"]
                self._thought += len(thought)
                return self._thinks(event, thought)
            case ev.REBASED:
                return self._rebased(event)
            case ev.NOTICE:
                return self._told(event)
            case ev.COMPLETED:
                return self._completed(event)
            case ev.FAILED:
                problem = orjson.loads(event.data)
                error = RapportError(problem.get("detail", ""), code=problem.get("code"))
                error.status = problem.get("status", 500)
                return b"data: %b\n\n" % orjson.dumps(openai_shape(error))
        return b""

    def _rebased(self, event: Event) -> bytes:
        """This format can't take text back: what is new is appended, and a reply that began again says so."""
        data = orjson.loads(event.data)
        text, reasoning = data["text"], data.get("reasoning", "")
        thought = self._thinks(event, reasoning[self._thought :])
        self._thought = len(reasoning)
        return thought + self._said_anew(event, text, data["reason"])

    def _said_anew(self, event: Event, text: str, reason: str) -> bytes:
        fresh = text[self._shown :]
        if not text and self._shown:
            self._shown = 0
            why = "That was thinking. The reply" if reason == "thinking" else "The reply was interrupted and"
            ends = "follows." if reason == "thinking" else "begins again."
            return self._chunk(event, {"content": f"\n\n[{why} {ends}]\n\n"})
        self._shown = max(self._shown, len(text))
        return self._chunk(event, {"content": fresh}) if fresh else b""

    def _thinks(self, event: Event, fresh: str) -> bytes:
        """By the name that DeepSeek gave it, and most servers and clients have taken."""
        return self._chunk(event, {"reasoning_content": fresh}) if fresh else b""

    def _told(self, event: Event) -> bytes:
        notice = self._notices.take(event)
        if notice is None:
            return b""
        return self._chunk(event, {"content": self._notices.text([notice])}, rapport={"notices": [notice]})

    def _completed(self, event: Event) -> bytes:
        data = orjson.loads(event.data)
        out = self._chunk(event, {}, finish=_finish(data["finish_reason"]))
        if self._include_usage:
            out += self._frame(event, {"choices": [], "usage": _usage(data["usage"])})
        return out

    def _chunk(self, event: Event, delta: dict[str, str], finish: str | None = None, **own: Any) -> bytes:
        body: dict[str, Any] = {"choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}
        if self._include_usage:
            body["usage"] = None
        return self._frame(event, {**body, **own})

    def _frame(self, event: Event, body: dict[str, Any]) -> bytes:
        head = {"id": self._id, "object": "chat.completion.chunk", "created": self._created, "model": self._model}
        return b"id: %b\ndata: %b\n\n" % (str(event.id).encode(), orjson.dumps({**head, **body}))


async def _whole(
    source: AsyncIterator[Sequence[Event]], model: str, conversation_id: UUID, notices: Notices
) -> Response:
    events = [event async for batch in source for event in batch]
    last = orjson.loads(events[-1].data)
    if events[-1].type == ev.FAILED:
        error = RapportError(last.get("detail", ""), code=last.get("code"))
        error.status = last.get("status", 500)
        if retry_after := last.get("retry_after"):
            error.headers["Retry-After"] = str(retry_after)
        if error.status == ForbiddenError.status:
            error.title = ForbiddenError.title
        raise error
    turn_id = orjson.loads(events[0].data)["turn_id"]
    message = {"role": "assistant", "content": "", "refusal": None}
    if thought := ev.reasoning_of(events):
        message["reasoning_content"] = thought
    told = [notice for event in events if (notice := notices.take(event)) is not None]
    completion = Completion(
        id=f"chatcmpl-{turn_id}",
        created=int(time.time()),
        model=model,
        choices=[
            {
                "index": 0,
                "message": {**message, "content": notices.text(told) + ev.text_of(events)},
                "logprobs": None,
                "finish_reason": _finish(last["finish_reason"]),
            }
        ],
        usage=_usage(last["usage"]),
        conversation_id=str(conversation_id),
        turn_id=turn_id,
        rapport={"notices": told},
    )
    return JSONResponse(completion.model_dump(), headers={"X-Conversation-Id": str(conversation_id)})


def _finish(reason: str) -> str:
    return reason if reason in {"stop", "length", "content_filter"} else "stop"


def _usage(usage: dict[str, int] | None) -> dict[str, int]:
    """OpenAI's clients want numbers; a server that told none gets zeros."""
    prompt = usage["prompt_tokens"] if usage else 0
    completion = usage["completion_tokens"] if usage else 0
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
