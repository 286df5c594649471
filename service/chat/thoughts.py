"""What a model thinks before and while it replies, where that is to be kept: beside the reply, and never a part of it."""

from typing import Literal

Kept = Literal["never", "asked", "always"]
Wish = Literal["keep", "drop"]

MOST_CHARS = 32_000
"""Of one reply's reasoning; the rest is left out. The default length of a reply allows about a third of it."""


def keeps(policy: Kept, wish: str | None) -> bool:
    """Whether a turn's reasoning is kept and shown, as the deployment allows and its caller wishes."""
    if policy == "never":
        return False
    return wish == "keep" or (policy == "always" and wish != "drop")


class Thoughts:
    """One reply's reasoning as it comes, and how much of it readers have. Without being `kept` it takes nothing."""

    def __init__(self, *, kept: bool) -> None:
        self.kept = kept
        self.text = ""
        self.outdated = False
        """Readers have something that doesn't count any more: they need all of it anew."""
        self._told = 0
        self._base = 0

    @property
    def pending(self) -> bool:
        return self.outdated or self._told < len(self.text)

    @property
    def shown_text(self) -> str:
        return self.text[: self._told]

    def add(self, piece: str) -> None:
        if self.kept:
            self.text += piece[: MOST_CHARS - len(self.text)]

    def told(self) -> str:
        """What readers don't have; from now on they have it."""
        fresh, self._told, self.outdated = self.text[self._told :], len(self.text), False
        return fresh

    def begin(self, text: str) -> None:
        """Go on behind what readers have of another writer's."""
        if self.kept:
            self.text = text[:MOST_CHARS]
            self._told = len(self.text)

    def settle(self, *, keep: bool) -> None:
        """From here on a model is asked anew: what was thought so far stays with what was said, or counts no more."""
        self._base = len(self.text) if keep else 0

    def back(self) -> None:
        """A model is asked: what another one thought before it failed is not this one's."""
        self.outdated = self.outdated or self._told > self._base
        self.text = self.text[: self._base]
        self._told = min(self._told, self._base)
