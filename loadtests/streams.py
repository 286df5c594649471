"""Read a reply's stream as a strict client does: every id must follow the last, and the text must add up."""

import json
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any


class StreamError(Exception):
    """The stream was not what it promises to be."""


@dataclass
class Reply:
    """What arrived of one reply, and when (seconds since the request)."""

    began: float = field(default_factory=time.perf_counter)
    text: str = ""
    turn_id: str = ""
    last: tuple[int, int] | None = None
    first_token: float | None = None
    gaps: list[float] = field(default_factory=list)
    ended: str = ""
    failure: str = ""
    _previous: float = 0.0

    def take(self, event_id: str, kind: str, data: dict[str, Any]) -> None:
        self._follow(event_id, kind)
        now = time.perf_counter() - self.began
        match kind:
            case "turn.accepted":
                self.turn_id = data["turn_id"]
            case "reply.delta":
                if self.first_token is None:
                    self.first_token = now
                else:
                    self.gaps.append(now - self._previous)
                self._previous = now
                self.text += data["text"]
            case "turn.rebased":
                self.text = data["text"]
            case "turn.taken_over":
                self.text = self.text[: data["kept_chars"]]
            case "turn.completed" | "turn.failed":
                self.ended = kind
                self.failure = data.get("code", "") if kind == "turn.failed" else ""

    def _follow(self, event_id: str, kind: str) -> None:
        epoch, _, n = event_id.partition("-")
        current = (int(epoch), int(n))
        if self.last is not None and kind != "turn.rebased":
            follows = current == (self.last[0], self.last[1] + 1) or (current[0] > self.last[0] and current[1] == 0)
            if not follows:
                raise StreamError(f"event {event_id} came after {self.last[0]}-{self.last[1]}")
        self.last = current


def events(lines: Iterable[bytes]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(id, type, data) of each event."""
    event_id, kind = "", ""
    for line in lines:
        if line.startswith(b"id: "):
            event_id = line[4:].decode()
        elif line.startswith(b"event: "):
            kind = line[7:].decode()
        elif line.startswith(b"data: "):
            yield event_id, kind, json.loads(line[6:])
