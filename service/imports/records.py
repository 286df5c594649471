"""What a line of an import can be, whatever the format."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Protocol

from service.errors import InvalidRequestError

MAX_TEXT = 100_000
"""Characters of one message: the longest real one in public chat corpora has 53,108."""
MAX_NAME = 200
MAX_ID = 512


class WrongFormatError(InvalidRequestError):
    """The file as a whole is not of the format it was said to be."""

    code, title = "import_format", "The file is not of this format"


class BrokenLineError(ValueError):
    """A line that can't be taken in; the message is the reason that its sender reads."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a file says about the whole conversation."""

    title: str = ""
    user: str | None = None
    companion: str | None = None
    time_zone: str | None = None
    key: str | None = None
    """Names the conversation in its source, so that a second import finds it; else its first message does."""
    sliding: bool = False
    """The file holds the latest messages only: the key alone names the conversation."""
    persona: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """One message."""

    number: int
    role: Literal["user", "assistant"]
    speaker: str | None
    text: str
    at: datetime | None
    """None when the source doesn't say; the reader then puts it right after the message before it."""
    external_id: str | None = None


@dataclass(frozen=True, slots=True)
class Noted:
    """A statement that another program remembered: nobody's own words."""

    number: int
    program: str
    source_id: str
    kind: Literal["user", "companion"]
    text: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Skipped:
    """A line that is right, but not part of what the two said: hidden, empty, a system note."""

    number: int
    reason: str


@dataclass(frozen=True, slots=True)
class Broken:
    """A line that can't be taken in."""

    number: int
    reason: str


Record = Header | Said | Noted | Skipped | Broken


class LineParser(Protocol):
    """Reads the lines of one file in order. It remembers only who is who."""

    def parse(self, number: int, value: object) -> Record:
        """Raises `BrokenLineError`."""
        ...


def checked_text(value: object, field: str) -> str:
    """The text of a message as it may be stored. Raises `BrokenLineError`."""
    if not isinstance(value, str):
        raise BrokenLineError(f'"{field}" has to be a text' if value is not None else f'"{field}" is missing')
    if "\0" in value:
        raise BrokenLineError(f'"{field}" contains a NUL character')
    if len(value) > MAX_TEXT:
        raise BrokenLineError(f'"{field}" has {len(value):,} characters; up to {MAX_TEXT:,} are allowed')
    return value


def checked_name(value: object, field: str, limit: int = MAX_NAME) -> str | None:
    """A short optional text, such as a name or an id. Raises `BrokenLineError`."""
    if value is None or value == "":
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise BrokenLineError(f'"{field}" has to be a text')
    if "\0" in value:
        raise BrokenLineError(f'"{field}" contains a NUL character')
    if len(value) > limit:
        raise BrokenLineError(f'"{field}" has {len(value):,} characters; up to {limit} are allowed')
    return value.strip() or None


def checked_object(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise BrokenLineError("a line has to be one JSON object")
    return value
