"""Read a reply's stream as a strict client does: every id must follow the last, and the text must add up."""

import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

NUMBERED = re.compile(r"tok(\d+)")


class StreamError(Exception):
    """The stream was not what it promises to be."""


@dataclass
class Reply:
    """What arrived of one reply, and when (seconds since the request)."""

    began: float = field(default_factory=time.perf_counter)
    text: str = ""
    turn_id: str = ""
    message_id: str = ""
    last: tuple[int, int] | None = None
    first_token: float | None = None
    gaps: list[float] = field(default_factory=list)
    ended: str = ""
    finish_reason: str = ""
    failure: str = ""
    _previous: float | None = None

    @property
    def after(self) -> str:
        """The last event id, to go on from."""
        return f"{self.last[0]}-{self.last[1]}" if self.last else ""

    def left(self) -> None:
        """The connection is gone: the time until the next event is the reader's, not the service's."""
        self._previous = None

    def take(self, event_id: str, kind: str, data: dict[str, Any]) -> None:
        """The next event. Raises `StreamError` when it can't be the next one."""
        self._follow(event_id, kind)
        now = time.perf_counter() - self.began
        match kind:
            case "turn.accepted":
                self.turn_id = data["turn_id"]
            case "reply.delta":
                if self.first_token is None:
                    self.first_token = now
                elif self._previous is not None:
                    self.gaps.append(now - self._previous)
                self._previous = now
                self.text += data["text"]
            case "turn.rebased":
                self.text = data["text"]
            case "turn.taken_over":
                self.text = self.text[: data["kept_chars"]]
            case "turn.completed":
                self.ended, self.message_id, self.finish_reason = kind, data["message_id"], data["finish_reason"]
            case "turn.failed":
                self.ended, self.failure = kind, data.get("code", "")

    def _follow(self, event_id: str, kind: str) -> None:
        epoch, _, n = event_id.partition("-")
        try:
            current = (int(epoch), int(n))
        except ValueError:
            raise StreamError(f"event {kind} has the id {event_id!r}") from None
        if self.last is not None and kind != "turn.rebased":
            follows = current == (self.last[0], self.last[1] + 1) or (current[0] > self.last[0] and current[1] == 0)
            if not follows:
                raise StreamError(f"event {event_id} came after {self.after}")
        self.last = current

    def check(self) -> None:
        """After its end. Raises `StreamError` for a reply that failed, or whose tokens are not all there once, in order.

        Only the mock's tokens carry numbers; of a real model's reply no more is known here than that it ended.
        """
        if self.ended != "turn.completed":
            raise StreamError(f"the reply ended with {self.ended or 'nothing'} {self.failure}".strip())
        if not self.text and self.finish_reason != "stopped":
            raise StreamError("the reply is empty")
        found = [int(number) for number in NUMBERED.findall(self.text)]
        for expected, number in enumerate(found):
            if number != expected:
                wrong = "missing" if number > expected else "repeated"
                raise StreamError(f"token {min(number, expected)} is {wrong}")


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
