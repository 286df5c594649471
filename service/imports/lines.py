"""Bytes in, numbered lines out, however the bytes arrive and however long a line is."""

from collections.abc import Iterator
from dataclasses import dataclass

MAX_LINE_BYTES = 1_048_576
"""A longer line is dropped as it arrives: memory stays the same whatever is sent."""

BOMS = ((b"\xff\xfe", "UTF-16"), (b"\xfe\xff", "UTF-16"), (b"\xef\xbb\xbf", "UTF-8"))


@dataclass(frozen=True, slots=True)
class RawLine:
    number: int
    data: bytes
    too_long: bool = False


class LineReader:
    """Cuts a stream of bytes into lines. Lines end with LF or CRLF and count from 1."""

    def __init__(self, max_line_bytes: int = MAX_LINE_BYTES) -> None:
        self._max = max_line_bytes
        self._rest = bytearray()
        self._dropping = False
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[RawLine]:
        start = 0
        while (end := chunk.find(b"\n", start)) >= 0:
            self._keep(chunk[start:end])
            yield self._take()
            start = end + 1
        self._keep(chunk[start:])

    def finish(self) -> Iterator[RawLine]:
        """The last line, when the file does not end with a line end."""
        if self._rest or self._dropping:
            yield self._take()

    def _keep(self, part: bytes) -> None:
        if self._dropping or len(self._rest) + len(part) > self._max:
            self._rest.clear()
            self._dropping = True
        else:
            self._rest += part

    def _take(self) -> RawLine:
        self._number += 1
        line = RawLine(self._number, bytes(self._rest).removesuffix(b"\r"), self._dropping)
        self._rest.clear()
        self._dropping = False
        return line
