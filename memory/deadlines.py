"""When something that lies ahead is due: "on Friday", said of the future, is the next Friday.

`memory.temporal` leaves a bare weekday alone, since a diary may mean either side; an open loop is ahead by definition.
"""

import re
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from memory import temporal

# Monday first; English, German, Spanish, French
_WEEKDAYS = (
    "monday|mon|montag|lunes|lundi",
    "tuesday|tues|dienstag|martes|mardi",
    "wednesday|mittwoch|miércoles|mercredi",
    "thursday|thurs|donnerstag|jueves|jeudi",
    "friday|freitag|viernes|vendredi",
    "saturday|samstag|sonnabend|sábado|samedi",
    "sunday|sonntag|domingo|dimanche",
)
_NUMBER_OF = {name: number for number, names in enumerate(_WEEKDAYS) for name in names.split("|")}
_BARE = re.compile(
    rf"\b(?:(?P<tomorrow>morgen|demain)|(?P<overmorrow>übermorgen|pasado mañana|après-demain)|"
    rf"(?P<mañana>(?<!la )(?<!por la )mañana)|(?P<day>{'|'.join(_WEEKDAYS)}))\b",
    re.IGNORECASE,
)
_TODAY = re.compile(
    r"\b(?:today|tonight|this (?:morning|afternoon|evening)|heute|hoy|aujourd'hui|ce soir)\b", re.IGNORECASE
)


def ahead(text: str, said_at: datetime, time_zone: str) -> date | None:
    """The first day, from the one on which it was said, that the text names; None when it names none for certain."""
    today = temporal.local_day(said_at, time_zone)
    named = [span.first for span in temporal.resolve(text, said_at, time_zone) if span.first >= today]
    if named:
        return min(named)
    found = _BARE.search(text)
    if found is None:
        return today if _TODAY.search(text.replace("’", "'")) else None
    if found["overmorrow"]:
        return today + timedelta(days=2)
    if found["tomorrow"] or found["mañana"]:
        return today + timedelta(days=1)
    wanted = _NUMBER_OF[found["day"].lower()]
    return today + timedelta(days=(wanted - today.weekday()) % 7 or 7)


def midnight(day: date, time_zone: str) -> datetime:
    """The moment at which the day begins where the user lives; an unknown zone counts as UTC."""
    try:
        zone: tzinfo = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        zone = UTC
    return datetime(day.year, day.month, day.day, tzinfo=zone).astimezone(UTC)
