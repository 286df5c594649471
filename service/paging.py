"""Opaque cursors: where the next page starts, as the last one's final row had it."""

import base64
import binascii
from datetime import UTC, datetime
from uuid import UUID

from service.errors import InvalidRequestError


def encode_cursor(at: datetime, item_id: UUID) -> str:
    return base64.urlsafe_b64encode(f"{at.isoformat()}|{item_id}".encode()).decode().rstrip("=")


def decode_cursor(cursor: str | None) -> tuple[datetime, UUID] | None:
    """Raises `InvalidRequestError` for anything that `encode_cursor` didn't make."""
    if cursor is None:
        return None
    try:
        at, _, item_id = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode().partition("|")
        when = datetime.fromisoformat(at)
        if when.tzinfo is None:
            raise ValueError("no time zone")  # noqa: TRY301
        return when.astimezone(UTC), UUID(item_id)
    except (ValueError, binascii.Error, OverflowError) as error:
        raise InvalidRequestError("The cursor is not one of ours; start without it.", code="invalid_cursor") from error
