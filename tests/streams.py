"""A reader of reply streams that believes nothing: ids must be contiguous, and text is put together as a client would."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx

TERMINAL = ("turn.completed", "turn.failed")


@dataclass
class Bubble:
    """What one reader has on the screen."""

    text: str = ""
    reasoning: str = ""
    last: str | None = None
    events: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)
    repeated: int = 0
    rebased: int = 0

    def take(self, event_id: str, kind: str, data: dict[str, Any]) -> None:
        if self.last is not None and _key(event_id) <= _key(self.last):
            self.repeated += 1
            return
        self.last = event_id
        self.events.append((event_id, kind, data))
        if kind == "reply.delta":
            self.text += data["text"]
        elif kind == "reply.reasoning":
            self.reasoning += data["text"]
        elif kind == "turn.rebased":
            self.text, self.reasoning = data["text"], data.get("reasoning", "")
            self.rebased += 1
        elif kind == "turn.taken_over":
            assert data["kept_chars"] <= len(self.text)
            self.text = self.text[: data["kept_chars"]]

    @property
    def kinds(self) -> list[str]:
        return [kind for _, kind, _ in self.events]

    @property
    def ended(self) -> bool:
        return bool(self.events) and self.events[-1][1] in TERMINAL

    def data(self, kind: str) -> dict[str, Any]:
        return next(data for _, found, data in self.events if found == kind)


def _key(event_id: str) -> tuple[int, int]:
    epoch, _, n = event_id.partition("-")
    return int(epoch), int(n)


def frames(lines: Iterator[str]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    event_id, kind, data = "", "", ""
    for line in lines:
        if not line:
            if data:
                yield event_id, kind, json.loads(data)
            event_id, kind, data = "", "", ""
        elif line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
        else:
            assert line.startswith(":"), line


def read(
    response: httpx.Response, bubble: Bubble | None = None, *, until: str | None = None, deltas: int = 0
) -> Bubble:
    """Read a stream to its end, or until an event of this kind, or until so many deltas were shown."""
    bubble = bubble or Bubble()
    shown = 0
    for event_id, kind, data in frames(response.iter_lines()):
        bubble.take(event_id, kind, data)
        shown += kind == "reply.delta"
        if kind == until or (deltas and shown >= deltas):
            break
    return bubble
