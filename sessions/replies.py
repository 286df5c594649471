"""The reply log: what was said of a reply so far, by whom it may be continued, and how to read on.

Ids are `<epoch>-<n>`, contiguous within an epoch; a new writer has a higher epoch and starts at n = 0. An append names
the id that it expects on top and is refused when a later epoch has written (fenced) or when the log isn't what this
writer wrote (lost: wiped or rolled back). After Kleppmann, "How to do distributed locking" (2016): the resource itself
checks the token.
"""

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, Protocol, Self
from uuid import UUID

import orjson

EMPTY = ""
ANYTHING = "*"
_ID = re.compile(r"(\d{1,9})-(\d{1,9})", re.ASCII)


class EventId(NamedTuple):
    """In order of writing. A tuple, as an event is: one of each is made and compared for every batch of tokens."""

    epoch: int
    n: int

    def __str__(self) -> str:
        return f"{self.epoch}-{self.n}"

    def next(self) -> "EventId":
        return EventId(self.epoch, self.n + 1)

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """None for anything that isn't `<epoch>-<n>`."""
        match = _ID.fullmatch(text.strip())
        return cls(int(match[1]), int(match[2])) if match else None


FIRST = EventId(1, 0)


class Event(NamedTuple):
    """One event of a reply's stream: `data` is its JSON object."""

    id: EventId
    type: str
    data: bytes


class Appended(StrEnum):
    OK = "ok"
    FENCED = "fenced"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Log:
    """Which log, and whose."""

    owner: UUID
    conversation_id: UUID
    turn_id: UUID


class ReplyLog(Protocol):
    """Where replies are logged. Every implementation passes tests/contracts/test_reply_log.py."""

    durable: bool
    """False when the log dies with this process."""

    async def append(self, log: Log, expected: str, events: Sequence[Event]) -> Appended:
        """Append `events`, all of one epoch, if `expected` is on top: an id, EMPTY, or ANYTHING to re-base.

        Raises `LiveStateUnavailableError`: the append may or may not have happened, and may be repeated as it is.
        """
        ...

    async def read(self, log: Log, after: EventId | None = None) -> list[Event]:
        """All events after `after`, in order. Raises `LiveStateUnavailableError` or `OwnerMismatchError`."""
        ...

    async def read_many(self, wanted: Sequence[tuple[Log, EventId | None]]) -> list[list[Event] | Exception]:
        """Read on in several logs in one round trip; each answer is a log's events or what went wrong with it."""
        ...

    def shard(self, log: Log) -> Hashable:
        """The same for logs that are kept in one place: reading those together makes none wait for another place."""
        ...

    async def drop(self, log: Log) -> None:
        """Forget the log now instead of when its time is over. Raises `LiveStateUnavailableError`."""
        ...


def contiguous(after: EventId | None, events: Sequence[Event]) -> bool:
    """Whether a reader that has seen up to `after` may be shown `events` as they are.

    Each event follows its predecessor; a take-over follows the event that it names as `after`; a rebase carries all of
    the text and follows anything. Otherwise there is a hole, and the reader needs a rebase.
    """
    last = after
    for event in events:
        if event.type == "turn.rebased":
            follows = True
        elif last is None:
            follows = event.id == FIRST
        elif event.id.epoch > last.epoch:
            follows = event.id.n == 0 and orjson.loads(event.data).get("after") == str(last)
        else:
            follows = event.id == last.next()
        if not follows:
            return False
        last = event.id
    return True
