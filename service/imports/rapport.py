"""Rapport's own JSONL: one message a line. docs/import.md describes it for those who write it."""

from datetime import tzinfo
from typing import Literal

from service.imports.records import (
    MAX_ID,
    MAX_TEXT,
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

Side = Literal["user", "assistant"]

USER_WORDS = frozenset({"user", "human", "you"})
ASSISTANT_WORDS = frozenset({"assistant", "ai", "bot", "companion", "model"})
VERSION = 1


class RapportParser:
    """Who a speaker is comes from the header, else from the line's role; else the first speaker is the user."""

    def __init__(self, time_zone: str | None = None) -> None:
        self._zone: tzinfo = zone_of(time_zone)
        self._user: str | None = None
        self._companion: str | None = None
        self._started = False

    def parse(self, number: int, value: object) -> Record:
        line = checked_object(value)
        if "rapport" in line and not self._started:
            self._started = True
            return self._header(line)
        self._started = True
        return self._said(number, line)

    def _header(self, line: dict[str, object]) -> Header:
        if line["rapport"] != VERSION:
            raise BrokenLineError(f"this reads version {VERSION} of the format, not {line['rapport']!r}")
        self._user = checked_name(line.get("user"), "user")
        self._companion = checked_name(line.get("companion"), "companion")
        zone = checked_name(line.get("time_zone"), "time_zone")
        if zone is not None:
            self._zone = zone_of(zone)
        return Header(
            title=checked_name(line.get("title"), "title") or "",
            user=self._user,
            companion=self._companion,
            time_zone=zone,
            key=checked_name(line.get("id"), "id", MAX_ID),
        )

    def _said(self, number: int, line: dict[str, object]) -> Record:
        role = line.get("role")
        if role in ("system", "tool", "developer"):
            return Skipped(number, f"a {role} message")
        if role not in (None, "user", "assistant"):
            raise BrokenLineError('"role" has to be "user" or "assistant"')
        speaker = checked_name(line.get("speaker"), "speaker")
        text = checked_text(line.get("text"), "text")
        if caption := checked_text(line.get("caption") or "", "caption").strip():
            text = f"{text} [photo: {caption}]".strip()
        if not text.strip():
            return Skipped(number, "an empty message")
        if len(text) > MAX_TEXT:
            raise BrokenLineError(f"text and caption have {len(text):,} characters; up to {MAX_TEXT:,} are allowed")
        at = line.get("at")
        return Said(
            number=number,
            role=self._side(speaker, "user" if role == "user" else "assistant" if role == "assistant" else None),
            speaker=None if speaker and speaker.lower() in USER_WORDS | ASSISTANT_WORDS else speaker,
            text=text,
            at=None if at is None else parse_time(at, self._zone),
            external_id=checked_name(line.get("id"), "id", MAX_ID),
        )

    def _side(self, speaker: str | None, role: Side | None) -> Side:
        if speaker is None and role is None:
            raise BrokenLineError('a line needs a "speaker" or a "role"')
        side: Side | None = role
        if speaker is not None:
            if speaker == self._user:
                side = "user"
            elif speaker == self._companion:
                side = "assistant"
            elif side is None:
                side = self._guess(speaker)
        return side or "user"

    def _guess(self, speaker: str) -> Side:
        if speaker.lower() in USER_WORDS:
            return "user"
        if self._user is None and self._companion is None and speaker.lower() not in ASSISTANT_WORDS:
            self._user = speaker
        # with a known user everybody else is on the companion's side, and the other way round
        return "user" if speaker == self._user or (self._user is None and self._companion is not None) else "assistant"
