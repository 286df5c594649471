"""From a stream of bytes to the records of a conversation, in constant memory."""

from collections.abc import AsyncIterator, Callable, Iterator

import orjson

from service.imports.lines import BOMS, LineReader, RawLine
from service.imports.rapport import RapportParser
from service.imports.records import Broken, BrokenLineError, LineParser, Record, WrongFormatError
from service.imports.sillytavern import SillyTavernParser

SILLYTAVERN_KEYS = frozenset({"mes", "user_name", "character_name", "chat_metadata"})

DOCUMENT_KEYS = {"results": "mem0", "agents": "letta"}


class DetectingParser:
    """Takes the first line's keys as a sign of the format."""

    def __init__(self, time_zone: str | None = None) -> None:
        self._zone = time_zone
        self._chosen: LineParser | None = None

    def parse(self, number: int, value: object) -> Record:
        if self._chosen is None:
            if isinstance(value, dict) and (other := DOCUMENT_KEYS.get(next(iter(value), ""))):
                raise BrokenLineError(f"this looks like an export of {other}; say so: format={other}")
            of_sillytavern = isinstance(value, dict) and not SILLYTAVERN_KEYS.isdisjoint(value)
            self._chosen = SillyTavernParser(self._zone) if of_sillytavern else RapportParser(self._zone)
        return self._chosen.parse(number, value)


FORMATS: dict[str, Callable[[str | None], LineParser]] = {
    "auto": DetectingParser,
    "rapport": RapportParser,
    "sillytavern": SillyTavernParser,
}
"""Name of a format to what makes its parser, given the name of the writer's time zone."""


def parser_for(name: str, time_zone: str | None) -> LineParser:
    """Raises `WrongFormatError` for a format or a time zone that is not known."""
    try:
        return FORMATS[name](time_zone)
    except KeyError:
        known = ", ".join([*FORMATS, "mem0", "letta"])
        raise WrongFormatError(f"There is no format {name!r}; there are {known}.") from None
    except BrokenLineError as error:
        raise WrongFormatError(f"{error}.") from None


class FileReader:
    """Feeds bytes to a parser line by line. Blank lines are nothing; a line that can't be read is `Broken`."""

    def __init__(self, parser: LineParser) -> None:
        self._parser = parser
        self._lines = LineReader()
        self._head: bytes | None = b""

    def feed(self, chunk: bytes) -> Iterator[Record]:
        """Raises `WrongFormatError` when the file's first bytes show that it is something else."""
        if self._head is not None:
            self._head += chunk
            if len(self._head) < 4:
                return
            chunk, self._head = _checked_start(self._head), None
        for line in self._lines.feed(chunk):
            yield from self._read(line)

    def finish(self) -> Iterator[Record]:
        if self._head:
            for line in self._lines.feed(_checked_start(self._head)):
                yield from self._read(line)
        for line in self._lines.finish():
            yield from self._read(line)

    def _read(self, line: RawLine) -> Iterator[Record]:
        if line.too_long:
            yield Broken(line.number, "the line is longer than 1 MiB")
        elif line.data.strip():
            try:
                yield self._parser.parse(line.number, _json(line.data))
            except BrokenLineError as error:
                yield Broken(line.number, str(error))


async def read_records(source: AsyncIterator[bytes], parser: LineParser) -> AsyncIterator[Record]:
    reader = FileReader(parser)
    async for chunk in source:
        for record in reader.feed(chunk):
            yield record
    for record in reader.finish():
        yield record


def _json(data: bytes) -> object:
    try:
        value: object = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise BrokenLineError(_reason(data, error)) from error
    return value


def _reason(data: bytes, error: orjson.JSONDecodeError) -> str:
    try:
        data.decode()
    except UnicodeDecodeError as wrong:
        return f"not UTF-8 at byte {wrong.start + 1} of the line; save the file as UTF-8"
    return f"not JSON: {error.msg} at character {error.colno}"


def _checked_start(start: bytes) -> bytes:
    for bom, encoding in BOMS:
        if start.startswith(bom):
            if encoding == "UTF-8":
                return start[len(bom) :]
            raise WrongFormatError(f"The file is {encoding}. Save it as UTF-8.")
    if start[1:2] == b"\0" or start[:1] == b"\0":
        raise WrongFormatError("The file is UTF-16 or binary. Save it as UTF-8.")
    if start.startswith((b"\x1f\x8b", b"PK\x03\x04", b"\x89PNG")):
        raise WrongFormatError("The file is packed or a picture. Unpack it and send the JSON lines in it.")
    if start.lstrip().startswith(b"["):
        raise WrongFormatError(
            "The file is one JSON list. This format has one JSON object a line, without commas between. Exports of mem0 and"
            " Letta are named with format=mem0 or format=letta."
        )
    return start
