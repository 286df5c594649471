"""When a message was said, in every notation that chat exports have used."""

import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from service.imports.records import BrokenLineError

EARLIEST = datetime(1970, 1, 1, tzinfo=UTC)
LATEST = datetime(2200, 1, 1, tzinfo=UTC)

DAY = re.compile(r"\d{4}-\d\d-\d\d")
NUMBER = re.compile(r"\d{9,17}(\.\d+)?")
# 2023-6-8 @14h 21m 33s 123ms and, later, 2024-07-12@01h31m37s or …37s123ms: the writer's own clock
HUMANIZED = re.compile(r"(\d{4})-(\d{1,2})-(\d{1,2}) ?@(\d{1,2})h ?(\d{1,2})m ?(\d{1,2})s(?: ?(\d{1,3})ms)?")
# June 19, 2023 2:20pm: the writer's own clock
MERIDIEM = re.compile(r"([A-Za-z]+) (\d{1,2}), (\d{4}) (\d{1,2}):(\d\d) ?([ap])m", re.IGNORECASE)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")

MILLISECONDS_FROM = 100_000_000_000
"""A number from here on is milliseconds since 1970 (March 1973), below it seconds (until the year 5138)."""


def zone_of(name: str | None) -> tzinfo:
    """Raises `BrokenLineError` for a zone that nobody knows."""
    if name is None:
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise BrokenLineError(f"{name!r} is not a time zone; use a name such as Europe/Berlin") from error


def parse_time(value: object, zone: tzinfo) -> datetime:
    """Read a time; without a zone of its own it is meant in `zone`. A day without an hour is its noon.

    Noon, since it stays the same day in every zone that people live in. Raises `BrokenLineError`.
    """
    try:
        moment = _read(value, zone)
    except (ValueError, OverflowError, OSError) as error:
        raise BrokenLineError(f"{_shown(value)} is not a time; write it as 2024-05-08T13:56:00Z") from error
    if not EARLIEST <= moment < LATEST:
        raise BrokenLineError(f"{_shown(value)} is not between the years 1970 and 2200")
    return moment


def _read(value: object, zone: tzinfo) -> datetime:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _from_number(float(value))
    if not isinstance(value, str) or len(value) > 100:
        raise ValueError
    text = value.strip()
    if DAY.fullmatch(text):
        return datetime.combine(date.fromisoformat(text), time(12), zone).astimezone(UTC)
    if NUMBER.fullmatch(text):
        return _from_number(float(text))
    if found := HUMANIZED.fullmatch(text):
        year, month, day, hour, minute, second, thousandths = (int(part or 0) for part in found.groups())
        return datetime(year, month, day, hour, minute, second, thousandths * 1000, zone).astimezone(UTC)
    if found := MERIDIEM.fullmatch(text):
        return _from_meridiem(found, zone)
    moment = datetime.fromisoformat(text)
    return (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)


def _from_number(value: float) -> datetime:
    seconds = value / 1000 if value >= MILLISECONDS_FROM else value
    return EARLIEST + timedelta(seconds=seconds)


def _from_meridiem(found: re.Match[str], zone: tzinfo) -> datetime:
    name, day, year, hour, minute, half = found.groups()
    month = MONTHS.index(name[:3].lower()) + 1
    if not 1 <= int(hour) <= 12:
        raise ValueError
    of_day = int(hour) % 12 + (12 if half.lower() == "p" else 0)
    return datetime(int(year), month, int(day), of_day, int(minute), tzinfo=zone).astimezone(UTC)


def _shown(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
