"""Exports that are one JSON document: read whole, up to a size, and then told record by record."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator

import orjson

from service.errors import TooLargeError
from service.imports.letta import letta_records
from service.imports.mem0 import mem0_records
from service.imports.records import Record, WrongFormatError

MAX_DOCUMENT_BYTES = 16 * 1_048_576
"""A document is held whole: parsed it takes about eight times its size."""

DOCUMENTS: dict[str, Callable[[object, str | None], Iterator[Record]]] = {
    "mem0": mem0_records,
    "letta": letta_records,
}
"""Name of a format to what reads its parsed document, given which part of it is wanted."""


async def document_records(source: AsyncIterator[bytes], name: str, wanted: str | None) -> AsyncIterator[Record]:
    """Raises `WrongFormatError`, or `TooLargeError` for more than 16 MiB."""
    whole = bytearray()
    async for chunk in source:
        whole += chunk
        if len(whole) > MAX_DOCUMENT_BYTES:
            raise TooLargeError(
                f"A document of {name} may have {MAX_DOCUMENT_BYTES // 1_048_576} MiB. Export it in parts."
            )
    value = await asyncio.to_thread(_parsed, bytes(whole), name)
    for record in DOCUMENTS[name](value, wanted):
        yield record


def _parsed(data: bytes, name: str) -> object:
    try:
        value: object = orjson.loads(data.removeprefix(b"\xef\xbb\xbf"))
        if isinstance(value, str):
            # seen in published agent files: the document once more as a JSON text
            value = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise WrongFormatError(f"The file is not a JSON document of {name}: {error}.") from error
    return value
