"""What fits: ranked memories without repetitions, within a number of tokens."""

import re
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

CHARACTERS_PER_TOKEN = 4
"""Close enough for every tokenizer in use to plan with; the prompt is measured again before it is sent."""
LEAST_ITEM = 10
"""Tokens under which no memory fits: day and speaker take that."""
MISSES = 8
"""Memories in a row that don't fit, after which the rest is not looked at: rendering costs time, and they are worse."""
WORDS = re.compile(r"\w+")


def tokens(text: str) -> int:
    """About how many tokens a text takes."""
    return max(1, round(len(text) / CHARACTERS_PER_TOKEN))


def distinct(ranked: Iterable[T], text: Callable[[T], str]) -> Iterator[T]:
    """Leave out what says the same words as something ranked above it."""
    seen: set[str] = set()
    for item in ranked:
        words = " ".join(WORDS.findall(text(item).lower()))
        if words not in seen:
            seen.add(words)
            yield item


def within(ranked: Iterable[T], text: Callable[[T], str], *, token_budget: int, limit: int) -> list[T]:
    """Take in order what still fits, skipping what doesn't, up to `limit` items."""
    kept: list[T] = []
    left, misses = token_budget if limit > 0 else 0, 0
    for item in ranked:
        cost = tokens(text(item))
        if cost <= left:
            left, misses = left - cost, 0
            kept.append(item)
        else:
            misses += 1
        if len(kept) >= limit or left < LEAST_ITEM or misses >= MISSES:
            break
    return kept
