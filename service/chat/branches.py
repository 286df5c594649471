"""Other replies, other words, other ways on: a conversation is a tree, and nothing in it is overwritten."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request
from pydantic import Field
from starlette.responses import Response

from memory import transcript
from memory.unfinished import read_unfinished
from service.auth.dependencies import Caller
from service.chat.engine import Send
from service.chat.routes import ABSENT, TURN, ConversationId, IdempotencyKey, TurnId, check_length, streamed
from service.chat.sampling import options
from service.chat.schemas import Body, ConversationView, NewTurn, Regeneration
from service.chat.sse import EventStream
from service.chat.stream_docs import STREAM_RESPONSE
from service.dependencies import WRITE, Context
from service.errors import InvalidRequestError
from service.problems import problems

router = APIRouter(prefix="/v1/conversations/{conversation_id}", tags=["chat"])

MessageId = Annotated[UUID, Path(description="A message of the conversation")]


class Head(Body):
    message_id: UUID = Field(description="The message that the next one will follow")


@router.post(
    "/messages/{message_id}/alternatives",
    responses={**STREAM_RESPONSE, **problems(TURN)},
    response_class=Response,
    summary="Another reply to the same message",
)
async def regenerate(
    request: Request,
    conversation_id: ConversationId,
    message_id: MessageId,
    caller: Caller,
    context: Context,
    body: Regeneration | None = None,
    idempotency_key: IdempotencyKey = None,
) -> EventStream:
    """Of a reply, or of the message that it answers. All alternatives are kept, and the new one becomes the way on."""
    body = body or Regeneration.model_construct()
    async with context.database.as_user(caller.user_id) as connection:
        message = await transcript.read_message(connection, caller.user_id, conversation_id, message_id)
        if message.role == "assistant" and message.parent_id is not None:
            message = await transcript.read_message(connection, caller.user_id, conversation_id, message.parent_id)
    if message.role != "user":
        raise InvalidRequestError("Only a reply to a message of the user's has alternatives.", code="no_alternatives")
    send = Send(
        caller.user_id,
        conversation_id,
        message.content,
        client_message_id=body.client_message_id or idempotency_key,
        speaker=message.speaker,
        answers=message.id,
        request=options(body, context.settings.keep_reasoning),
    )
    return await streamed(request, context, caller, send)


@router.post(
    "/messages/{message_id}/edits",
    responses={**STREAM_RESPONSE, **problems(TURN)},
    response_class=Response,
    summary="Say something else in a message's place",
)
async def edit(
    request: Request,
    conversation_id: ConversationId,
    message_id: MessageId,
    body: NewTurn,
    caller: Caller,
    context: Context,
    idempotency_key: IdempotencyKey = None,
) -> EventStream:
    """The old words and what followed them stay, as a branch beside the new ones."""
    check_length(context, body.content)
    async with context.database.as_user(caller.user_id) as connection:
        message = await transcript.read_message(connection, caller.user_id, conversation_id, message_id)
    if message.role != "user":
        raise InvalidRequestError("Only the user's own messages can be said again.", code="not_your_message")
    send = Send(
        caller.user_id,
        conversation_id,
        body.content,
        client_message_id=body.client_message_id or idempotency_key,
        speaker=body.speaker,
        parent_id=message.parent_id,
        at_root=message.parent_id is None,
        request=options(body, context.settings.keep_reasoning),
    )
    return await streamed(request, context, caller, send)


@router.post(
    "/turns/{turn_id}/continue",
    responses={**STREAM_RESPONSE, **problems(TURN)},
    response_class=Response,
    summary="Go on with a reply that was stopped, cut or interrupted",
)
async def continue_turn(
    request: Request,
    conversation_id: ConversationId,
    turn_id: TurnId,
    caller: Caller,
    context: Context,
    body: Regeneration | None = None,
    idempotency_key: IdempotencyKey = None,
) -> EventStream:
    """A turn whose stream begins with the text so far (`turn.rebased`, reason `continued`). Its reply holds all of it,
    stands in the old one's place and names it as `continues`. Of a reply that came to its own end nothing is continued:
    409 `nothing_to_continue`."""
    body = body or Regeneration.model_construct()
    async with context.database.as_user(caller.user_id) as connection:
        begun = await read_unfinished(connection, caller.user_id, conversation_id, turn_id)
    message_id = begun.reply_message_id
    link = {"turn_id": str(turn_id), "message_id": None if message_id is None else str(message_id)}
    kept = begun.request | options(body, context.settings.keep_reasoning)
    send = Send(
        caller.user_id,
        conversation_id,
        begun.asked,
        client_message_id=body.client_message_id or idempotency_key,
        speaker=begun.speaker,
        answers=begun.user_message_id,
        prefix=begun.text,
        request={**kept, "continues": link, "begun_chars": len(begun.text)},
    )
    return await streamed(request, context, caller, send)


@router.put(
    "/head",
    responses=problems(ABSENT | {403: "`route_locked`", 409: "`turn_in_progress`"}),
    dependencies=[WRITE],
    summary="Go on from another branch",
)
async def choose_head(
    conversation_id: ConversationId, body: Head, caller: Caller, context: Context
) -> ConversationView:
    async with context.database.as_user(caller.user_id) as connection:
        chosen = await transcript.choose_head(connection, caller.user_id, conversation_id, body.message_id)
    return ConversationView.of(chosen)
