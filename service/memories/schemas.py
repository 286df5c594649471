"""What the memory panel and the API send and get."""

from datetime import datetime
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, model_validator

from memory.curation import Closer, Item, SourceMessage
from memory.retrieval import RecalledItem
from service.chat.schemas import Body
from service.chat.texts import Text
from service.paging import Cursor


def _written(value: object) -> object:
    """A moment is written out: a number would be taken for seconds since 1970."""
    if isinstance(value, int | float):
        raise ValueError("write date and time with their offset: 2026-12-24T18:00:00+01:00")  # noqa: TRY004  pydantic's way
    return value


Layer = Literal["episode", "fact"]
Kind = Literal["user", "companion", "both", "open_loop"]
Status = Literal["current", "active", "uncertain", "superseded", "corrected", "all"]

FACT_CHARS = 500

A_FACT: dict[str, Any] = {
    "id": "01937b41-52c8-7a10-8d1e-2b8c5a7e4f02",
    "layer": "fact",
    "kind": "user",
    "text": "Caroline has a dog called Biscuit",
    "status": "active",
    "pinned": False,
    "route": "general",
    "speaker": "Caroline",
    "by_user": False,
    "said_at": "2023-05-08T13:56:00Z",
    "learnt_at": "2023-05-08T13:56:09Z",
    "valid_from": "2023-05-08T13:56:00Z",
    "valid_to": None,
    "due_at": None,
    "superseded_by": None,
    "confirmations": 1,
    "source": {
        "conversation_id": "01937b3e-7a11-7c4e-9d6e-3f3b0d2d9a01",
        "message_id": "01937b3e-7a12-7c01-b2a4-0f6d5c1e9a11",
        "seq": 3,
        "quote": "My dog Biscuit chewed my running shoes",
    },
}


class SourceView(BaseModel):
    """The message behind a memory; all null when its owner wrote the memory down."""

    conversation_id: UUID | None
    message_id: UUID | None
    seq: int | None
    quote: str = Field(description="The words that support it")


class MemoryView(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [A_FACT]})

    id: UUID
    layer: Layer
    kind: Kind | None = Field(description="Of a fact: whom it is about, or something that is still open")
    text: str
    status: str = Field(description="active, uncertain (what it rests on has changed), superseded, corrected")
    pinned: bool
    route: str
    speaker: str | None
    by_user: bool = Field(description="Written or corrected by its owner, not learnt")
    imported_from: str | None = Field(None, description="The program that told it: nobody said so here")
    said_at: datetime
    learnt_at: datetime | None
    valid_from: datetime | None
    valid_to: datetime | None
    due_at: datetime | None
    superseded_by: UUID | None
    confirmations: int = Field(description="How often it was said again")
    source: SourceView

    @classmethod
    def of(cls, item: Item) -> Self:
        return cls(**_fields(item))


def _fields(item: Item) -> dict[str, Any]:
    source = SourceView(
        conversation_id=item.conversation_id, message_id=item.message_id, seq=item.seq, quote=item.quote
    )
    names = MemoryView.model_fields.keys() - {"source", "imported_from"}
    told_by = item.origin.partition(":")[0] or None
    return {**{name: getattr(item, name) for name in names}, "source": source, "imported_from": told_by}


class MemoryPage(BaseModel):
    items: list[MemoryView]
    next_cursor: str | None


class SourceMessageView(BaseModel):
    conversation_id: UUID
    message_id: UUID
    seq: int
    role: str
    speaker: str | None
    said_at: datetime
    quote: str
    content: str | None = Field(description="The whole message; null when it is gone")

    @classmethod
    def of(cls, source: SourceMessage) -> Self:
        return cls.model_validate(source, from_attributes=True)


class MemoryDetail(MemoryView):
    """One memory with every message it came from, what it replaced, and what replaced it."""

    sources: list[SourceMessageView]
    history: list[MemoryView] = Field(
        description="Older and newer versions of a fact; the facts learnt from an episode"
    )

    @classmethod
    def of_closer(cls, closer: Closer) -> Self:
        return cls(
            **_fields(closer.item),
            sources=[SourceMessageView.of(source) for source in closer.sources],
            history=[MemoryView.of(item) for item in closer.history],
        )


class ListQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    layer: Layer | None = None
    kind: Kind | None = None
    status: Status = Field("current", description="`current` is active and uncertain")
    text: Text | None = Field(None, min_length=1, max_length=200, description="Memories that contain this")
    conversation_id: UUID | None = None
    pinned: bool | None = None
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: Cursor = None

    @property
    def statuses(self) -> tuple[str, ...]:
        if self.status == "current":
            return ("active", "uncertain")
        if self.status == "all":
            return ("active", "uncertain", "superseded", "corrected")
        return (self.status,)


class SearchRequest(Body):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "What is the dog called?", "limit": 5}]}
    )

    query: Text = Field(min_length=1, max_length=2000)
    limit: int = Field(10, ge=1, le=100)
    conversation_id: UUID | None = Field(None, description="Search as a turn of this conversation would")


class Found(BaseModel):
    """A memory as a prompt would have it, with why it was found."""

    id: UUID
    layer: Layer
    text: str = Field(description="With its day, and relative dates resolved")
    score: float
    why: list[str]
    said_at: datetime
    speaker: str | None
    role: str
    source: SourceView

    @classmethod
    def of(cls, item: RecalledItem, quote: str) -> Self:
        source = SourceView(conversation_id=item.conversation_id, message_id=item.message_id, seq=item.seq, quote=quote)
        return cls(
            id=item.id,
            layer="fact" if item.layer == "fact" else "episode",
            text=item.text,
            score=round(item.score, 4),
            why=list(item.why),
            said_at=item.said_at,
            speaker=item.speaker,
            role=item.role,
            source=source,
        )


class SearchResult(BaseModel):
    items: list[Found] = Field(description="Best first; empty when nothing is good enough")
    elapsed_ms: float


FactText = Annotated[Text, Field(min_length=1, max_length=FACT_CHARS, pattern=r"\S")]
"""Of a memory; blank space alone says nothing."""


class NewMemory(Body):
    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "I am allergic to peanuts", "kind": "user"}]}
    )

    text: FactText
    kind: Kind = "user"
    route: str = Field("general", max_length=40)
    due_at: Annotated[AwareDatetime | None, BeforeValidator(_written)] = Field(
        None, description="Of an open loop: when it is due"
    )
    pinned: StrictBool = False

    @model_validator(mode="after")
    def _due_is_a_date_of_this_age(self) -> Self:
        if self.due_at is not None and not 1970 <= self.due_at.year <= 2200:
            raise ValueError("due_at has to be between the years 1970 and 2200")
        return self


class MemoryChange(Body):
    """Correct what a fact says, or pin it. A correction makes a new fact; the old words stay as its history. A change
    that says nothing changes nothing."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"text": "Caroline's dog is called Bisquit"}, {"pinned": True}]}
    )

    text: FactText | None = None
    pinned: StrictBool | None = None


class ForgetAllQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    confirm: Literal["everything"] = Field(description="So that a slip forgets nothing")
    conversations: Literal["delete", "keep"] = "delete"


class StoreReceipt(BaseModel):
    store: str
    what: str
    removed: int = Field(description="Rows or keys removed or rewritten; 0 where nothing was found")
    state: str


class Similar(BaseModel):
    """A memory that may still say what was forgotten, in other words."""

    id: UUID
    layer: Layer
    likeness: float = Field(description="Cosine of their meanings; 1 is the same")


class ForgetQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    similar: Literal["name", "forget"] = Field(
        "name",
        description="What may say the same in other words is named in the receipt; or what surely does is forgotten too",
    )


class Receipt(BaseModel):
    """Where was looked, and what was found. It has numbers and no words, and is kept."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "id": "01937b52-0c1e-7d10-a6c1-5b7f1e9d2c44",
                    "scope": "memory",
                    "at": "2026-11-22T08:00:00Z",
                    "forgotten": ["01937b41-52c8-7a10-8d1e-2b8c5a7e4f02"],
                    "stores": [
                        {"store": "postgresql", "what": "facts", "removed": 1, "state": "done"},
                        {"store": "postgresql", "what": "episodes", "removed": 1, "state": "done"},
                        {"store": "redis", "what": "reply logs", "removed": 3, "state": "done"},
                    ],
                }
            ]
        }
    )

    id: UUID
    scope: str
    at: datetime
    forgotten: list[UUID] = Field(
        description="Facts that are gone: the one asked for and what rested on the same words"
    )
    similar: list[Similar] = Field(
        default_factory=list,
        description="Facts and messages that may still say it in other words; up to 50. Nothing was done to them",
    )
    stores: list[StoreReceipt]
