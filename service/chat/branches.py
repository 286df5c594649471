"""Other replies, other words, other ways on: a conversation is a tree, and nothing in it is overwritten."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Request
from pydantic import Field
from starlette.responses import Response

from memory import transcript
from service.auth.dependencies import Caller
from service.chat.engine import Send
from service.chat.routes import ConversationId, some, streamed
from service.chat.schemas import Body, ConversationView, NewTurn, Text
from service.chat.sse import EventStream
from service.chat.stream_docs import STREAM_RESPONSE
from service.dependencies import Context
from service.errors import InvalidRequestError, TooLargeError
from service.limits.dependencies import WRITE

router = APIRouter(prefix="/v1/conversations/{conversation_id}", tags=["chat"])

MessageId = Annotated[UUID, Path(description="A message of the conversation")]


class Regeneration(Body):
    backend: str | None = Field(
        None, max_length=64, description="Ask a named backend of the conversation's route first"
    )


class Head(Body):
    message_id: UUID = Field(description="The message that the next one will follow")
    reason: Text | None = Field(None, max_length=200)


@router.post(
    "/messages/{message_id}/alternatives",
    responses={**STREAM_RESPONSE, **some(403, 404, 409)},
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
) -> EventStream:
    """Of a reply, or of the message that it answers. All alternatives are kept, and the new one becomes the way on."""
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
        speaker=message.speaker,
        answers=message.id,
        request={"backend": body.backend} if body and body.backend else {},
    )
    return await streamed(request, context, caller, send)


@router.post(
    "/messages/{message_id}/edits",
    responses={**STREAM_RESPONSE, **some(403, 404, 409, 413)},
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
) -> EventStream:
    """The old words and what followed them stay, as a branch beside the new ones."""
    if len(body.content) > context.settings.message_max_chars:
        raise TooLargeError(
            f"A message may have {context.settings.message_max_chars} characters.", code="message_too_large"
        )
    async with context.database.as_user(caller.user_id) as connection:
        message = await transcript.read_message(connection, caller.user_id, conversation_id, message_id)
    if message.role != "user":
        raise InvalidRequestError("Only the user's own messages can be said again.", code="not_your_message")
    send = Send(
        caller.user_id,
        conversation_id,
        body.content,
        client_message_id=body.client_message_id,
        speaker=body.speaker,
        parent_id=message.parent_id,
        at_root=message.parent_id is None,
        request={"backend": body.backend} if body.backend else {},
    )
    return await streamed(request, context, caller, send)


@router.put("/head", responses=some(404), dependencies=[WRITE], summary="Go on from another branch")
async def choose_head(
    conversation_id: ConversationId, body: Head, caller: Caller, context: Context
) -> ConversationView:
    async with context.database.as_user(caller.user_id) as connection:
        chosen = await transcript.choose_head(connection, caller.user_id, conversation_id, body.message_id)
    return ConversationView.of(chosen)
