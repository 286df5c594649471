"""An incremental reader of server-sent events, after https://html.spec.whatwg.org/multipage/server-sent-events.html."""

from typing import NamedTuple

MAX_EVENT_BYTES = 1 << 20
MAX_STREAM_BYTES = 64 << 20


class ServerSentEvent(NamedTuple):
    event: str
    data: bytes


class EventStreamTooLongError(ValueError):
    """A server sent a line, an event or a stream beyond its cap."""


class EventStreamParser:
    """Turns reads of any size into whole events; the same bytes give the same events however they are cut."""

    def __init__(self, *, max_event: int = MAX_EVENT_BYTES, max_stream: int = MAX_STREAM_BYTES) -> None:
        self._max_event = max_event
        self._max_stream = max_stream
        self._received = 0
        self._rest = b""
        self._started = False
        self._event = ""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events that `chunk` completed. Raises `EventStreamTooLongError`."""
        self._received += len(chunk)
        if self._received > self._max_stream:
            raise EventStreamTooLongError(f"more than {self._max_stream} bytes in one stream")
        rest = self._rest + chunk if self._rest else chunk
        if not self._started:
            if len(rest) < 3 and b"\xef\xbb\xbf".startswith(rest):
                self._rest = rest
                return []
            self._started = True
            rest = rest.removeprefix(b"\xef\xbb\xbf")
        if b"\r" in rest:
            lines, self._rest = _split_any(rest)
        else:
            lines = rest.split(b"\n")
            self._rest = lines.pop()
        if len(self._rest) > self._max_event:
            raise EventStreamTooLongError(f"a line of more than {self._max_event} bytes")
        return self._take(lines)

    def close(self) -> list[ServerSentEvent]:
        """Return what was left when the server hung up: some never send the last blank line."""
        events = self._take([self._rest.rstrip(b"\r"), b""])
        self._rest = b""
        return events

    def _take(self, lines: list[bytes]) -> list[ServerSentEvent]:
        events: list[ServerSentEvent] = []
        for line in lines:
            if line.startswith(b"data:"):
                value = line[6:] if line.startswith(b"data: ") else line[5:]
                self._size += len(value)
                if self._size > self._max_event:
                    raise EventStreamTooLongError(f"an event of more than {self._max_event} bytes")
                self._data.append(value)
            elif not line:
                if self._data:
                    data = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
                    events.append(ServerSentEvent(self._event, data))
                    self._data = []
                    self._size = 0
                self._event = ""
            else:
                self._field(line)
        return events

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            self._event = value.decode("utf-8", "replace")
        elif name == b"error":
            # llama.cpp before b7000 wrote `error: {…}` instead of `data: {"error": …}`
            self._event = "error"
            self._data.append(value)
        elif name == b"data":
            self._data.append(b"")


def _split_any(rest: bytes) -> tuple[list[bytes], bytes]:
    """Split at CRLF, LF or CR; a CR at the very end waits, because an LF may follow."""
    held = b""
    if rest.endswith(b"\r"):
        rest, held = rest[:-1], b"\r"
    lines = rest.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    return lines[:-1], lines[-1] + held
