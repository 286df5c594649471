"""The native API: conversations, their messages, their turns."""

from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Header, Path, Query, Request, Response, status
from pydantic import WithJsonSchema
from starlette.responses import Response as StarletteResponse
from uuid_utils.compat import uuid7

from memory import transcript
from memory.postgres import Connection
from service.auth.dependencies import Caller
from service.chat.engine import Send
from service.chat.events import frame
from service.chat.sampling import options
from service.chat.schemas import (
    KEY,
    ConversationChange,
    ConversationPage,
    ConversationView,
    LockRequest,
    MessagePage,
    MessageView,
    NewConversation,
    NewTurn,
    Stopped,
    TurnView,
)
from service.chat.sse import EventStream
from service.chat.stream_docs import STREAM_RESPONSE
from service.compliance.duty import Notice, told_with_messages
from service.dependencies import READ, WRITE, Context
from service.errors import InvalidRequestError, TooLargeError
from service.limits import address_of
from service.paging import WRONG_CURSOR, Cursor, decode_cursor, encode_cursor
from service.problems import problems
from sessions.replies import EventId

router = APIRouter(prefix="/v1/conversations", tags=["chat"])

ABSENT = {404: "`conversation_not_found`: absent, or another user's"}
TURN = ABSENT | {
    403: "`route_locked` or `age_assurance_required`",
    409: "`turn_in_progress`, `idempotency_conflict`, or `nothing_to_continue`",
    413: "`too_large`",
}

ConversationId = Annotated[UUID, Path(description="The conversation")]
EventIdText = Annotated[str | None, WithJsonSchema({"type": "string", "pattern": "^[0-9]{1,9}-[0-9]{1,9}$"})]
IdempotencyKey = Annotated[str | None, Header(max_length=128, pattern=KEY)]
TurnId = Annotated[UUID, Path(description="The turn, as `turn.accepted` named it")]


@router.post(
    "", status_code=status.HTTP_201_CREATED, responses=problems(), dependencies=[WRITE], summary="Start a conversation"
)
async def create_conversation(body: NewConversation, caller: Caller, context: Context) -> ConversationView:
    if body.route not in context.policies.gate.routes:
        known = ", ".join(context.policies.gate.routes)
        raise InvalidRequestError(f"There is no route {body.route!r}; there are: {known}.", code="unknown_route")
    async with context.database.as_user(caller.user_id) as connection:
        conversation = await transcript.create_conversation(
            connection,
            caller.owner,
            uuid7(),
            route=body.route,
            title=body.title,
            companion_name=body.companion.name,
            persona=body.companion.persona,
            time_zone=body.time_zone,
        )
    return ConversationView.of(conversation)


@router.get("", responses=problems(WRONG_CURSOR), dependencies=[READ], summary="List conversations, the latest first")
async def list_conversations(
    caller: Caller,
    context: Context,
    limit: Annotated[int, Query(ge=1, le=100)] = 30,
    cursor: Annotated[Cursor, Query()] = None,
) -> ConversationPage:
    found = await context.database.read(
        caller.user_id,
        lambda connection: transcript.list_conversations(connection, caller.user_id, limit + 1, decode_cursor(cursor)),
    )
    page = found[:limit]
    more = len(found) > limit
    return ConversationPage(
        items=[ConversationView.of(conversation) for conversation in page],
        next_cursor=encode_cursor(page[-1].updated_at, page[-1].id) if more else None,
    )


@router.get("/{conversation_id}", responses=problems(ABSENT), dependencies=[READ], summary="Read one conversation")
async def read_conversation(conversation_id: ConversationId, caller: Caller, context: Context) -> ConversationView:
    found = await context.database.read(
        caller.user_id, lambda connection: transcript.read_conversation(connection, caller.user_id, conversation_id)
    )
    return ConversationView.of(found)


@router.patch(
    "/{conversation_id}", responses=problems(ABSENT), dependencies=[WRITE], summary="Change its title or companion"
)
async def change_conversation(
    conversation_id: ConversationId, body: ConversationChange, caller: Caller, context: Context
) -> ConversationView:
    async with context.database.as_user(caller.user_id) as connection:
        changed = await transcript.update_conversation(
            connection,
            caller.user_id,
            conversation_id,
            title=body.title,
            companion_name=body.companion.name if body.companion else None,
            persona=body.companion.persona if body.companion else None,
        )
    await context.live.forget(conversation_id)
    return ConversationView.of(changed)


@router.delete(
    "/{conversation_id}",
    status_code=status.HTTP_204_NO_CONTENT,
    responses=problems(ABSENT),
    dependencies=[WRITE],
    summary="Delete it with all that was learnt from it",
)
async def delete_conversation(conversation_id: ConversationId, caller: Caller, context: Context) -> Response:
    async with context.database.as_user(caller.user_id) as connection:
        await transcript.read_conversation(connection, caller.user_id, conversation_id)
        await transcript.delete_conversation(connection, caller.user_id, conversation_id)
    await context.live.forget(conversation_id)
    return Response(status_code=status.HTTP_204_NO_CONTENT)


@router.post(
    "/{conversation_id}/lock",
    responses=problems(ABSENT),
    dependencies=[WRITE],
    summary="Lock it: nothing more is said until it is unlocked",
)
async def lock_conversation(
    conversation_id: ConversationId, body: LockRequest, caller: Caller, context: Context
) -> ConversationView:
    async with context.database.as_user(caller.user_id) as connection:
        locked = await transcript.set_lock(connection, caller.user_id, conversation_id, body.reason)
    await context.live.forget(conversation_id)
    return ConversationView.of(locked)


@router.delete("/{conversation_id}/lock", responses=problems(ABSENT), dependencies=[WRITE], summary="Unlock it")
async def unlock_conversation(conversation_id: ConversationId, caller: Caller, context: Context) -> ConversationView:
    async with context.database.as_user(caller.user_id) as connection:
        unlocked = await transcript.set_lock(connection, caller.user_id, conversation_id, None)
    await context.live.forget(conversation_id)
    return ConversationView.of(unlocked)


@router.get(
    "/{conversation_id}/messages",
    responses=problems(ABSENT),
    dependencies=[READ],
    summary="Read its messages, the newest page first",
)
async def list_messages(
    conversation_id: ConversationId,
    caller: Caller,
    context: Context,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    before: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
) -> MessagePage:
    """In order of `seq`. `before` pages back from the end; `after` reads on."""

    async def look(connection: Connection) -> tuple[list[transcript.Message], dict[UUID, list[Notice]]]:
        await transcript.read_conversation(connection, caller.user_id, conversation_id)
        found = await transcript.list_messages(
            connection, caller.user_id, conversation_id, limit + 1, before=before, after=after
        )
        turns = {message.turn_id for message in found if message.turn_id is not None}
        return found, await told_with_messages(connection, caller.user_id, turns) if turns else {}

    found, told = await context.database.read(caller.user_id, look)
    more = len(found) > limit
    page = found[:limit] if after is not None else found[-limit:]
    return MessagePage(
        items=[MessageView.of(message, told.get(message.id, ())) for message in page],
        next_before=page[0].seq if more and after is None else None,
    )


@router.post(
    "/{conversation_id}/turns",
    responses={**STREAM_RESPONSE, **problems(TURN)},
    response_class=StarletteResponse,
    summary="Say something, and stream the reply",
)
async def send_turn(
    request: Request,
    conversation_id: ConversationId,
    body: NewTurn,
    caller: Caller,
    context: Context,
    idempotency_key: IdempotencyKey = None,
) -> EventStream:
    """Errors before the message is stored are HTTP problems; after `turn.accepted` they are `turn.failed` events.

    A second message while a reply is being written is refused with 409 `turn_in_progress`: stop that reply, or wait.
    """
    check_length(context, body.content)
    message = Send(
        caller.user_id,
        conversation_id,
        body.content,
        client_message_id=body.client_message_id or idempotency_key,
        speaker=body.speaker,
        request=options(body, context.settings.keep_reasoning),
    )
    return await streamed(request, context, caller, message)


def check_length(context: Context, text: str, **more: Any) -> None:
    """Raises `TooLargeError` for a message that is too long, wherever it came in."""
    maximum = context.settings.message_max_chars
    if len(text) > maximum:
        raise TooLargeError(
            f"A message may have {maximum} characters; this one has {len(text)}.", code="message_too_large", **more
        )


async def streamed(request: Request, context: Context, caller: Caller, send: Send) -> EventStream:
    """Admit the caller, accept the message, and stream its reply; a refused one gives its place back."""
    admission = await context.limits.admit(caller, address_of(request), "turn")
    try:
        return EventStream(await context.chat.send(send), frame, admission=admission)
    except BaseException:
        await admission.aclose()
        raise


@router.get(
    "/{conversation_id}/turns/{turn_id}", responses=problems(ABSENT), dependencies=[READ], summary="Read a turn"
)
async def read_turn(conversation_id: ConversationId, turn_id: TurnId, caller: Caller, context: Context) -> TurnView:
    return TurnView.of(await context.chat.read_turn(caller.user_id, conversation_id, turn_id))


@router.get(
    "/{conversation_id}/turns/{turn_id}/stream",
    responses={**STREAM_RESPONSE, **problems(ABSENT)},
    response_class=StarletteResponse,
    summary="Resume a reply's stream, on any instance",
)
async def follow_turn(
    request: Request,
    conversation_id: ConversationId,
    turn_id: TurnId,
    caller: Caller,
    context: Context,
    after: Annotated[EventIdText, Query(description="The last event id seen, `<epoch>-<n>`")] = None,
    last_event_id: Annotated[EventIdText, Header()] = None,
) -> EventStream:
    """The rest arrives, and nothing twice. Without `after`, all of it. Any number of readers may follow."""
    given = after or last_event_id
    event_id = EventId.parse(given) if given else None
    if given and event_id is None:
        raise InvalidRequestError("`after` must be an event id of this stream, such as 1-17.", code="invalid_event_id")
    admission = await context.limits.admit(caller, address_of(request), "read")
    try:
        events = await context.chat.follow(caller.user_id, conversation_id, turn_id, event_id)
        return EventStream(events, frame, admission=admission)
    except BaseException:
        await admission.aclose()
        raise


@router.post(
    "/{conversation_id}/turns/{turn_id}/stop",
    responses=problems(ABSENT),
    dependencies=[WRITE],
    summary="Stop a reply, keeping what was said",
)
async def stop_turn(conversation_id: ConversationId, turn_id: TurnId, caller: Caller, context: Context) -> Stopped:
    """Works from any instance; closing the stream does not stop a reply. Stopping an ended turn changes nothing."""
    status_now, last = await context.chat.stop(caller.user_id, conversation_id, turn_id)
    return Stopped.model_construct(turn_id=turn_id, status=status_now, last_event_id=last)
