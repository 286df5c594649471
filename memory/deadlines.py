"""When something that lies ahead is due: "on Friday", said of the future, is the next Friday.

`memory.temporal` leaves a bare weekday alone, since a diary may mean either side; an open loop is ahead by definition.
"""

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from itertools import islice
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from memory import temporal

# Monday first; English, German, Spanish, French. No "mon": in French it is "my"
_WEEKDAYS = (
    "monday|montag|lunes|lundi",
    "tuesday|tues|dienstag|martes|mardi",
    "wednesday|mittwoch|miércoles|mercredi",
    "thursday|thurs|donnerstag|jueves|jeudi",
    "friday|freitag|viernes|vendredi",
    "saturday|samstag|sonnabend|sábado|samedi",
    "sunday|sonntag|domingo|dimanche",
)
_NUMBER_OF = {name: number for number, names in enumerate(_WEEKDAYS) for name in names.split("|")}
_DAY = re.compile(
    rf"\b(?P<day>{'|'.join(_WEEKDAYS)})(?:morgen|vormittag|mittag|nachmittag|abend|nacht)?\b"
    r"|\b(?-i:(?<=on )Mon|(?<=next )Mon|(?<=by )Mon|(?<=until )Mon|Mon(?=\s+(?:at|\d|morning|afternoon|evening|night)\b))\b",
    re.IGNORECASE,
)
_TOMORROW = re.compile(
    r"\b(?:(?P<over>übermorgen|pasado mañana|après-demain)|morgen|demain|(?<!la )(?<!esta )(?<!cada )mañana)\b",
    re.IGNORECASE,
)
# the morning, and a greeting, are no tomorrow
_MORNING = re.compile(
    rf"\b(?:guten|schönen|am|jeden|jeder|dies\w+|den|der|ein\w*|heute|gestern|{'|'.join(_WEEKDAYS)})\s+morgen\b"
    r"|^\W*morgen\s*(?:[,!]|zusammen\b|allerseits\b)",
    re.IGNORECASE,
)
_OVER = re.compile(
    rf"\b(?:letzt\w+|vergangen\w+|vorig\w+)\s+(?:{'|'.join(_WEEKDAYS)})\b"
    rf"|\b(?:{'|'.join(_WEEKDAYS)})\s+(?:pasado|dernier|passé)\b",
    re.IGNORECASE,
)
_TODAY = re.compile(
    r"\b(?:today|tonight|this (?:morning|afternoon|evening)|heute|hoy|aujourd'hui|ce soir)\b", re.IGNORECASE
)


def ahead(text: str, said_at: datetime, time_zone: str) -> date | None:
    """The first day, from the one on which it was said, that the text names; None when it names none for certain."""
    today = temporal.local_day(said_at, time_zone)
    spans = temporal.resolve(text, said_at, time_zone)
    if named := [span.first for span in spans if span.first >= today]:
        return min(named)
    for span in spans:  # those are over: "last Friday" is no Friday to come
        text = text[: span.start] + " " * (span.end - span.start) + text[span.end :]
    text = _OVER.sub(" ", text)
    found = {_weekday(today, day) for day in islice(_DAY.finditer(text), 1)}
    found |= {today + timedelta(days=2 if day["over"] else 1) for day in _TOMORROW.finditer(_MORNING.sub(" ", text))}
    if found:
        # "tomorrow the exam, on Friday the party": which of them is meant, the words don't say
        return found.pop() if len(found) == 1 else None
    return today if _TODAY.search(text.replace("’", "'")) else None


def _weekday(today: date, found: re.Match[str]) -> date:
    wanted = _NUMBER_OF[(found["day"] or "monday").lower()]
    return today + timedelta(days=(wanted - today.weekday()) % 7 or 7)


def midnight(day: date, time_zone: str) -> datetime:
    """The moment at which the day begins where the user lives; an unknown zone counts as UTC."""
    try:
        zone: tzinfo = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = UTC
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
