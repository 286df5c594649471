"""Whether a short answer, or a date, stands in a text: by words, with no judge."""

import calendar
import re
from collections.abc import Iterable, Sequence
from functools import cache

NUMERALS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
DIGITS = {word: str(value) for value, word in enumerate(NUMERALS)}
FUNCTION_WORDS = """
a an the of in on at to and or for with by from his her their its my your our is are was were be it that this as
"""
IGNORED = frozenset(FUNCTION_WORDS.split())
MONTH_NAMES = [name.lower() for name in calendar.month_name if name]
MONTHS = {name[:length]: number for number, name in enumerate(MONTH_NAMES, 1) for length in (3, len(name))}
EMPTY_ANSWERS = frozenset({"yes", "no", "not", "likely"})
MOST_WORDS, MOST_IN_PART = 12, 5

Day = tuple[int, int, int]
"""Year, month, day; day 0 is the month as a whole."""


def content_words(text: str) -> list[str]:
    """Words without endings, numerals as digits, function words left out."""
    found = []
    for word in re.findall(r"[a-z0-9]+", text.lower().replace("'s", "").replace("’s", "")):
        plain = DIGITS.get(word, word)
        if plain not in IGNORED:
            found.append(_without_ending(plain))
    return found


def _without_ending(word: str) -> str:
    for ending in ("ing", "ed", "es", "s"):
        if word.endswith(ending) and len(word) > len(ending) + 3:
            word = word.removesuffix(ending)
            break
    return word.rstrip("e") if len(word) > 4 else word


@cache
def bag(text: str) -> frozenset[str]:
    return frozenset(content_words(text))


def parts(answer: str) -> list[list[str]]:
    """The parts of a short answer, each as its words; nothing when it is too long or too empty to be looked for."""
    split = [content_words(part) for part in re.split(r",(?!\d)|;|\band\b|\n", answer)]
    kept = [part for part in split if any(len(word) > 2 or word.isdigit() for word in part)]
    words = [word for part in kept for word in part]
    if not kept or len(words) > MOST_WORDS or max(len(part) for part in kept) > MOST_IN_PART:
        return []
    if set(words) <= EMPTY_ANSWERS or (len(words) == 1 and len(words[0]) < 3):
        return []
    return kept


def stated(wanted: Sequence[Sequence[str]], texts: Iterable[str]) -> int:
    """How many parts stand with all their words in one of the texts."""
    bags = [bag(text) for text in texts]
    return sum(any(bag_.issuperset(part) for bag_ in bags) for part in wanted)


@cache
def days(text: str) -> frozenset[Day]:
    """The calendar dates of a text."""
    text = text.lower()
    found: set[Day] = set()
    for year, month, day in re.findall(r"\b(\d{4})-(\d{2})-(\d{2})\b", text):
        found.add((int(year), int(month), int(day)))
    for day, name, year in re.findall(r"\b(\d{1,2})(?:st|nd|rd|th)?(?: of)? ([a-z]{3,9})\.?,? (\d{4})\b", text):
        if name in MONTHS:
            found.add((int(year), MONTHS[name], int(day)))
    for name, day, year in re.findall(r"\b([a-z]{3,9})\.? (\d{1,2})(?:st|nd|rd|th)?,? (\d{4})\b", text):
        if name in MONTHS:
            found.add((int(year), MONTHS[name], int(day)))
    for name, year in re.findall(r"\b([a-z]{3,9}),? (\d{4})\b", text):
        if name in MONTHS:
            found.add((int(year), MONTHS[name], 0))
    return frozenset(found)
