"""Watches a continued reply for a server that says the beginning again (LM Studio #2041, #2058)."""

from service.llm.errors import CannotContinueError

SHORT = 8
"""Characters below which a repetition can be chance ("ha" after "ha"): let through."""
SURE = 24
"""A reply that repeats this many characters of the prefix and then departs from it has begun anew."""


class PrefixGuard:
    """Holds the first text of a continuation until it is clear that it does not repeat `prefix`.

    A repeated prefix is cut away; a reply that starts over in other words raises `CannotContinueError`
    before any of it was shown.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.strip()
        self._blank = prefix[len(prefix.rstrip()) :]
        self._held = ""
        self._open = len(self._prefix) < SHORT

    def feed(self, text: str) -> str:
        """Return the text that may be shown now."""
        if self._open:
            return self._joined(text) if self._blank else text
        self._held += text
        said = self._held.lstrip()
        agreed = _agreement(said, self._prefix)
        if agreed == len(self._prefix):
            self._open = True
            return self._joined(said[agreed:])
        if agreed == len(said):
            return ""
        self._open = True
        if agreed >= SURE:
            raise CannotContinueError("the server began the reply again instead of continuing it")
        return self._joined(self._held)

    def close(self) -> str:
        """Return what was held when the reply ended."""
        if self._open:
            return ""
        self._open = True
        return self._joined(self._held)

    def _joined(self, text: str) -> str:
        """Leave out the blank space that was shown already: templates trim it, and the model makes it anew."""
        while self._blank and text:
            if text[0] != self._blank[0]:
                self._blank = ""
                break
            text, self._blank = text[1:], self._blank[1:]
        return text


def _agreement(one: str, other: str) -> int:
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
