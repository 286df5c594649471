"""Text as it may come in: PostgreSQL takes neither a NUL nor half of a character, as words or inside of JSON."""

from typing import Annotated

from pydantic import AfterValidator


def _plain(text: str) -> str:
    if "\x00" in text:
        raise ValueError("a NUL byte can't be stored; remove it")
    if not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("half of a character (a lone surrogate) can't be stored; send whole characters")
    return text


Text = Annotated[str, AfterValidator(_plain)]
