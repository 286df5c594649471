"""The neutral form in which public chat corpora are measured: a JSON list of conversations with their turns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from service.imports.records import WrongFormatError


def neutral_lines(path: Path, conversation: str | None) -> Iterator[bytes]:
    """One conversation of the file as Rapport's own lines. Raises `WrongFormatError`."""
    chosen = _choose(_conversations(path), conversation)
    speakers = chosen.get("speakers") or [None, None]
    yield _line(
        {
            "rapport": 1,
            "id": chosen.get("id"),
            "title": chosen.get("id"),
            "user": speakers[0],
            "companion": speakers[-1],
        }
    )
    for turn in chosen.get("turns", ()):
        yield _line(
            {
                "speaker": turn.get("speaker"),
                "text": turn.get("text"),
                "at": turn.get("date") or None,
                "id": turn.get("id"),
                "caption": turn.get("caption") or None,
            }
        )


def _conversations(path: Path) -> list[dict[str, Any]]:
    try:
        found = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as error:
        raise WrongFormatError(f"The file is not JSON: {error}.") from error
    if isinstance(found, dict):
        found = [found]
    if not isinstance(found, list) or not all(isinstance(one, dict) and "turns" in one for one in found):
        raise WrongFormatError('The neutral form is a JSON list of conversations: [{"id", "speakers", "turns": […]}].')
    return found


def _choose(conversations: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    names = [str(one.get("id")) for one in conversations]
    if wanted is None:
        if len(conversations) == 1:
            return conversations[0]
        raise WrongFormatError(
            f"The file has {len(names)} conversations; choose one with --conversation: {', '.join(names)}."
        )
    try:
        return conversations[names.index(wanted)]
    except ValueError:
        raise WrongFormatError(
            f"There is no conversation {wanted!r} in the file; there are: {', '.join(names)}."
        ) from None


def _line(values: dict[str, Any]) -> bytes:
    return orjson.dumps({name: value for name, value in values.items() if value is not None}) + b"\n"
