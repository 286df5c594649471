"""Opaque cursors: where the next page starts, as the last one's final row had it.

Whatever has their form is one: microseconds since the year 1 and an id, in hexadecimal, so that the API's document can
say all that there is to say about them.
"""

import base64
import binascii
import re
from datetime import UTC, datetime, timedelta
from typing import Annotated
from uuid import UUID

from pydantic import WithJsonSchema

from service.errors import InvalidRequestError

FORM = "^[0-3][0-9a-f]{14}-[0-9a-f]{32}$"
LATEST = 0x3FFFFFFFFFFFFFF
"""In the year 9135."""
WRONG_CURSOR = {422: "`invalid_request` or `invalid_cursor`"}
_BEGIN = datetime.min.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

Cursor = Annotated[str | None, WithJsonSchema({"type": "string", "pattern": FORM})]


def encode_cursor(at: datetime, item_id: UUID) -> str:
    return f"{min((at - _BEGIN) // _MICROSECOND, LATEST):015x}-{item_id.hex}"


def decode_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    """Raises `InvalidRequestError` for anything that `encode_cursor` didn't make."""
    if cursor is None:
        return None
    if re.fullmatch(FORM, cursor):
        return _BEGIN + int(cursor[:15], 16) * _MICROSECOND, UUID(cursor[16:])
    try:
        return _old(cursor)
    except (ValueError, binascii.Error, OverflowError) as error:
        raise InvalidRequestError("The cursor is not one of ours; start without it.", code="invalid_cursor") from error


def _old(cursor: str) -> tuple[datetime, UUID]:
    """As releases before 0.2 made them: somebody may be paging while this one takes over."""
    at, _, item_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("|")
    when = datetime.fromisoformat(at)
    if when.tzinfo is None:
        raise ValueError("no time zone")
    return when.astimezone(UTC), UUID(item_id)
