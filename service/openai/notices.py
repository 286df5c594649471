"""Notices at the OpenAI door, whose clients have no place for them: before the reply, and no part of it.

What the law asks to tell must be told with any client, so it stands in the text. A client that can do better finds it
in the field `rapport` too, and asks with `X-Rapport-Notices: extension` to have it there alone.
"""

import re
from collections.abc import Iterable
from typing import Any, Literal

import orjson

from service.chat import events as ev
from sessions.replies import Event

Shown = Literal["text", "extension"]
QUEUE = "queue"
"""News of a moment: a place in a queue."""

MARK = "> **Notice:** "
BEFORE = re.compile(r"(?:> \*\*Notice:\*\* [^\n]*(?:\n\s*|$))+")


class Notices:
    """Those of one answer, each once, however often its log tells them."""

    def __init__(self, shown: Shown) -> None:
        self.told: dict[str, dict[str, Any]] = {}
        self._shown = shown

    def take(self, event: Event) -> dict[str, Any] | None:
        """The notice, when it is one that this answer has not told yet."""
        if event.type != ev.NOTICE:
            return None
        notice: dict[str, Any] = orjson.loads(event.data)
        if notice["kind"] == QUEUE or notice["id"] in self.told:
            return None
        self.told[notice["id"]] = notice
        return notice

    def text(self, notices: Iterable[dict[str, Any]]) -> str:
        """What stands of them before the reply."""
        if self._shown == "extension":
            return ""
        return "".join(f"{MARK}{' '.join(notice['text'].split())}\n\n" for notice in notices)


def without_notices(text: str) -> str:
    """A reply as a client sends it back, as it was said."""
    match = BEFORE.match(text.replace("\r\n", "\n"))
    return text if match is None else text.replace("\r\n", "\n")[match.end() :]
