"""Words within words: where a quote stands in a message, in which sentence, and what of a message is not its speaker's."""

import re
from collections.abc import Iterator

from memory import words

MARKS = str.maketrans(
    {
        "’": "'",
        "‘": "'",
        "ʼ": "'",
        "´": "'",
        "`": "'",
        "“": '"',
        "”": '"',
        "„": '"',
        "«": '"',
        "»": '"',
        "–": "-",
        "—": "-",
        "−": "-",
        "…": ".",
    }
)


def _folded(text: str) -> tuple[str, list[int]]:
    """The text with whitespace, quote marks and case evened out, and where each of its characters came from."""
    characters: list[str] = []
    origins: list[int] = []
    for at, character in enumerate(text.translate(MARKS)):
        piece = " " if character.isspace() else character.lower()
        if piece == " " and (not characters or characters[-1] == " "):
            continue
        characters.extend(piece)
        origins.extend([at] * len(piece))
    return "".join(characters), origins


def locate(quote: str, text: str) -> tuple[int, int] | None:
    """Where in `text` the quote stands, as words and not as a part of one; None when it does not."""
    wanted = _folded(quote)[0].strip(" \"'.,;:!?-")
    if not wanted:
        return None
    folded, origins = _folded(text)
    at = -1
    while (at := folded.find(wanted, at + 1)) >= 0:
        end = at + len(wanted)
        if not (_joined(folded, at) or _joined(folded, end)):
            return origins[at], origins[end - 1] + 1
    return None


def _joined(text: str, at: int) -> bool:
    """Whether a word of a script with spaces runs across this position."""
    return 0 < at < len(text) and all(c.isalnum() and not words.is_unspaced(c) for c in (text[at - 1], text[at]))


_NOT_OWN = (
    re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL),
    re.compile(
        r"<(?P<tag>memory|recalled|context|system|quote)\b[^>]*>.*?(?:</(?P=tag)>|\Z)", re.DOTALL | re.IGNORECASE
    ),
    re.compile(r"^[ \t]*(?:>|\|).*$", re.MULTILINE),
    re.compile(r"(?<!\w)\*(?!\s|\*)[^*\n]+(?<!\s)\*(?!\w)"),
    re.compile(r"[“\"„«][^“”\"„«»\n]{8,}[”\"“»]|[「『][^」』]{4,}[」』]"),
    re.compile(
        r"^[ \t]*[-*\[(]*(?:system|assistant|developer|tool|memory|recalled)\b[^\n]{0,20}[:\]].*$",
        re.MULTILINE | re.IGNORECASE,
    ),
)


def others_words(text: str) -> list[tuple[int, int]]:
    """Spans that the speaker shows rather than says: code, quotations, stage directions, recalled blocks."""
    return [found.span() for pattern in _NOT_OWN for found in pattern.finditer(text)]


_SENTENCE_END = re.compile(r"(?<=[.!?…])[\"'”’)\]]*\s+|(?<=[。！？])|\n+")


def sentences(text: str) -> Iterator[tuple[int, int]]:
    start = 0
    for found in _SENTENCE_END.finditer(text):
        if found.end() > start:
            yield start, found.end()
        start = found.end()
    if start < len(text):
        yield start, len(text)


def enclosing(span: tuple[int, int], text: str) -> tuple[int, int]:
    """The whole sentences that the span touches, without the spaces around them."""
    touched = [part for part in sentences(text) if part[0] < span[1] and part[1] > span[0]]
    start, end = min(part[0] for part in touched), max(part[1] for part in touched)
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


def sentence_of(span: tuple[int, int], text: str) -> str:
    start, end = enclosing(span, text)
    return text[start:end]
