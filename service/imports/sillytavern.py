"""SillyTavern's chat files: a header line, then a message a line, as its versions since 2023 have written them."""

from datetime import tzinfo
from typing import Any

from service.imports.records import (
    MAX_ID,
    BrokenLineError,
    Header,
    Record,
    Said,
    Skipped,
    checked_name,
    checked_object,
    checked_text,
)
from service.imports.times import parse_time, zone_of

UNUSED = "unused"
"""What newer versions write as both names of the header; the lines have the real ones."""


class SillyTavernParser:
    """Hidden and system lines are skipped; of several replies (swipes) the one that was chosen counts."""

    def __init__(self, time_zone: str | None = None) -> None:
        self._zone: tzinfo = zone_of(time_zone)
        self._started = False

    def parse(self, number: int, value: object) -> Record:
        line = checked_object(value)
        if not self._started:
            self._started = True
            if "mes" not in line and ("user_name" in line or "chat_metadata" in line or "character_name" in line):
                return _header(line)
        return self._said(number, line)

    def _said(self, number: int, line: dict[str, object]) -> Record:
        extra = line.get("extra")
        details: dict[str, Any] = extra if isinstance(extra, dict) else {}
        if line.get("is_system") is True:
            return Skipped(number, "hidden, or a system note")
        if details.get("type") in ("narrator", "comment"):
            return Skipped(number, f"a {details['type']}'s note")
        if "mes" not in line and "swipes" not in line:
            raise BrokenLineError('"mes" is missing')
        text = checked_text(_chosen(line), "mes")
        if not text.strip():
            return Skipped(number, "an empty message")
        sent = line.get("send_date")
        return Said(
            number=number,
            role="user" if line.get("is_user") is True else "assistant",
            speaker=checked_name(line.get("name"), "name"),
            text=text,
            at=None if sent in (None, "") else parse_time(sent, self._zone),
        )


def _header(line: dict[str, object]) -> Header:
    metadata = line.get("chat_metadata")
    details: dict[str, Any] = metadata if isinstance(metadata, dict) else {}
    integrity, created = details.get("integrity"), line.get("create_date")
    # branches of a chat share their beginning; what tells them apart is here
    key = integrity if isinstance(integrity, str) else f"created {created}" if created else None
    return Header(
        user=_name(line.get("user_name"), "user_name"),
        companion=_name(line.get("character_name"), "character_name"),
        key=checked_name(key, "integrity", MAX_ID),
    )


def _name(value: object, field: str) -> str | None:
    name = checked_name(value, field)
    return None if name == UNUSED else name


def _chosen(line: dict[str, object]) -> object:
    """The reply that was chosen. `mes` repeats it; an export of Chub nests the text one deeper."""
    chosen = line.get("mes")
    swipes, index = line.get("swipes"), line.get("swipe_id")
    if chosen is None and isinstance(swipes, list) and isinstance(index, int) and 0 <= index < len(swipes):
        chosen = swipes[index]
    if isinstance(chosen, dict):
        chosen = chosen.get("message")
    return chosen
