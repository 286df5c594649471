"""What the native API takes and gives."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from memory.transcript import Conversation, Message
from memory.turns import StoredTurn
from service.chat.sampling import Sampling
from service.chat.texts import Text
from service.chat.thoughts import Wish
from service.compliance.duty import Notice


def _zone(name: str) -> str:
    if name not in available_timezones():
        raise ValueError("not a time zone of the IANA database, such as Europe/Lisbon")
    return ZoneInfo(name).key


TimeZone = Annotated[str, Field(max_length=64), AfterValidator(_zone)]


KEY = r"^[\x21-\x7e]+$"
"""Of a key that a client makes up: visible ASCII, since it may travel in a header."""


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", str_strip_whitespace=False)


class Companion(Body):
    """Who talks with the user."""

    name: Text = Field("", max_length=80, examples=["Melanie"])
    persona: Text = Field("", max_length=8000, examples=["You are Melanie, an old friend who paints."])


class NewConversation(Body):
    title: Text = Field("", max_length=200)
    route: str = Field(
        "general",
        max_length=40,
        description="The policy the conversation is on; it can't be changed later",
        examples=["general"],
    )
    companion: Companion = Field(default_factory=lambda: Companion(name="", persona=""))
    time_zone: TimeZone = "UTC"


class ConversationChange(Body):
    title: Text | None = Field(None, max_length=200)
    companion: Companion | None = None


class LockRequest(Body):
    reason: Text = Field("user", min_length=1, max_length=200, examples=["parent"])


class Lock(BaseModel):
    reason: str
    epoch: int


class ConversationView(BaseModel):
    id: UUID
    title: str
    route: str
    lock: Lock | None
    companion: Companion
    time_zone: str
    created_at: datetime
    updated_at: datetime
    last_seq: int
    head_id: UUID | None = Field(description="The message that the next one will follow: the end of the chosen branch")
    active_turn_id: UUID | None

    @classmethod
    def of(cls, conversation: Conversation) -> "ConversationView":
        return cls(
            id=conversation.id,
            title=conversation.title,
            route=conversation.route,
            lock=Lock(reason=conversation.lock_reason, epoch=conversation.lock_epoch)
            if conversation.lock_reason
            else None,
            companion=Companion.model_construct(name=conversation.companion_name, persona=conversation.persona),
            time_zone=conversation.time_zone,
            created_at=conversation.created_at,
            updated_at=conversation.updated_at,
            last_seq=conversation.last_seq,
            head_id=conversation.head_id,
            active_turn_id=conversation.active_turn,
        )


class ConversationPage(BaseModel):
    items: list[ConversationView]
    next_cursor: str | None


class NoticeView(BaseModel):
    """What the service itself told the user, as the stream's event `notice` did."""

    id: str
    kind: str = Field(examples=["ai_disclosure", "break_reminder", "crisis_referral"])
    text: str


class MessageView(BaseModel):
    id: UUID
    seq: int
    parent_id: UUID | None
    role: Literal["user", "assistant", "system"]
    speaker: str | None
    content: str
    created_at: datetime
    turn_id: UUID | None
    status: Literal["complete", "stopped", "cut"] = Field(
        description="A reply that was stopped, or cut at its length limit, can be continued"
    )
    continues: UUID | None = Field(
        description="The reply that this one went on with: it begins with that one's text, and stands for it"
    )
    reasoning: str | None = Field(
        description="What the model thought before this reply, where that was asked for: no part of what was said"
    )
    notices: list[NoticeView] = Field(description="Told before this reply, or after this message if no reply came")

    @classmethod
    def of(cls, message: Message, notices: Sequence[Notice] = ()) -> "MessageView":
        return cls.model_construct(
            id=message.id,
            seq=message.seq,
            parent_id=message.parent_id,
            role=message.role,
            speaker=message.speaker,
            content=message.content,
            created_at=message.created_at,
            turn_id=message.turn_id,
            status=message.status,
            continues=message.continues,
            reasoning=message.reasoning or None,
            notices=[NoticeView.model_construct(**notice.data) for notice in notices],
        )


class MessagePage(BaseModel):
    items: list[MessageView]
    next_before: int | None = Field(description="Pass as `before` for the page of older messages")


class Wishes(Sampling):
    """What may be wished of any reply, whatever it answers."""

    client_message_id: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        pattern=KEY,
        description="Made once by the client (or sent as `Idempotency-Key`): asking again gives the same turn and its stream",
    )
    backend: Text | None = Field(
        None, max_length=64, description="Ask a named backend of the conversation's route first"
    )
    reasoning: Wish | None = Field(
        None,
        description="keep: what the model thinks is streamed as `reply.reasoning` and kept beside the reply; "
        "drop: it is not. Without it as KEEP_REASONING says, by which nothing is kept that nobody asked for",
    )


class NewTurn(Wishes):
    content: Text = Field(min_length=1, description="What the user says", examples=["Do you remember where I moved?"])
    speaker: Text | None = Field(None, max_length=80)


class Regeneration(Wishes):
    """Another reply, or more of one: what it answers is there already."""


class TurnView(BaseModel):
    id: UUID
    conversation_id: UUID
    status: Literal["running", "completed", "stopped", "failed"]
    epoch: int = Field(description="How many writers the reply has had")
    user_message_id: UUID
    reply_message_id: UUID | None
    text: str = Field(description="The reply; while it is being written, or after a failure, what was kept of it")
    reasoning: str | None = Field(
        description="What the model thought, where that was kept; None until the reply is whole"
    )
    finish_reason: str | None
    backend: str | None
    model: str | None
    scripted: bool
    usage: dict[str, int] | None = Field(
        description="As the model's server counted; of a reply that failed after some of it was shown, an estimate"
    )
    failure: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None

    @classmethod
    def of(cls, turn: StoredTurn) -> "TurnView":
        return cls.model_construct(
            id=turn.id,
            conversation_id=turn.conversation_id,
            status=turn.status,
            epoch=turn.epoch,
            user_message_id=turn.user_message_id,
            reply_message_id=turn.reply_message_id,
            text=turn.reply if turn.reply is not None else turn.checkpoint,
            reasoning=turn.reasoning or None,
            finish_reason=turn.finish_reason,
            backend=turn.backend,
            model=turn.model,
            scripted=turn.scripted,
            usage=turn.usage,
            failure=turn.failure,
            created_at=turn.created_at,
            finished_at=turn.finished_at,
        )


class Stopped(BaseModel):
    turn_id: UUID
    status: Literal["running", "completed", "stopped", "failed"]
    last_event_id: str | None = Field(description="The last event that a reader can have been shown")
