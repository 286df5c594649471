"""Dates that people mean: "yesterday" in a message becomes a calendar date, "last May" in a question a range.

English, by rule and in microseconds. What is vague ("a few days ago", "soon") stays unresolved: a wrong date in a
memory is worse than none.
"""

import calendar
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

MONTHS = {name.lower(): number for number, name in enumerate(calendar.month_name) if name}
MONTHS |= {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name} | {"sept": 9}
WEEKDAYS = {name.lower(): number for number, name in enumerate(calendar.day_name)}
WEEKDAYS |= {"mon": 0, "tues": 1, "tue": 1, "wed": 2, "thurs": 3, "thu": 3, "fri": 4, "sat": 5, "sun": 6}
NUMBERS = {
    "a": 1,
    "an": 1,
    "one": 1,
    "two": 2,
    "couple of": 2,
    "a couple of": 2,
    "couple": 2,
    "a couple": 2,
    "three": 3,
}
NUMBERS |= {"four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10, "eleven": 11, "twelve": 12}
SEASONS = {"spring": 3, "summer": 6, "fall": 9, "autumn": 9}
"""First month of each, on the northern half; winter spans two years and is left alone."""

EARLIEST = 1900
"""Years before it are a manner of speaking: "a thousand years ago"."""

_MONTH = "|".join(sorted(MONTHS, key=len, reverse=True))
_DAY = "|".join(sorted(WEEKDAYS, key=len, reverse=True))
_NUMBER = r"\d{1,3}|" + "|".join(sorted(NUMBERS, key=len, reverse=True))
_ORDINAL = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_VERB = r"(?-i:may|march)\b"
"""Months that are verbs when they are written small: "only 5 may come", "this may take long"."""


@dataclass(frozen=True, slots=True)
class DateSpan:
    """A time expression at text[start:end], and the days it stands for, both included."""

    start: int
    end: int
    first: date
    last: date

    def __str__(self) -> str:
        """As a reader would write it: "7 May 2023", "week of 1 May 2023", "May 2023", "2023"."""
        if self.first == self.last:
            return f"{self.first.day} {self.first:%B %Y}"
        if (self.first.month, self.first.day, self.last.month, self.last.day) == (1, 1, 12, 31):
            return f"{self.first.year}"
        if self.first.day == 1 and self.last == _month(self.first)[1]:
            return f"{self.first:%B %Y}"
        if (self.last - self.first).days < 7:
            return f"{self.first.day} {self.first:%B} to {self.last.day} {self.last:%B %Y}"
        return f"{self.first:%B} to {self.last:%B %Y}"


Range = tuple[date, date]


def _month(day: date, ahead: int = 0) -> Range:
    """The month `ahead` months after that of `day`."""
    index = day.year * 12 + day.month - 1 + ahead
    year, month = index // 12, index % 12 + 1
    return date(year, month, 1), date(year, month, calendar.monthrange(year, month)[1])


def _week(day: date, ahead: int = 0) -> Range:
    monday = day - timedelta(days=day.weekday()) + timedelta(weeks=ahead)
    return monday, monday + timedelta(days=6)


def _year(day: date, ahead: int = 0) -> Range:
    return date(day.year + ahead, 1, 1), date(day.year + ahead, 12, 31)


def _one(day: date) -> Range:
    return day, day


def _unit(unit: str, amount: int, today: date) -> Range:
    """`amount` days, weeks, … from today (negative: ago); as exact as the unit is."""
    match unit[0]:
        case "d":
            return _one(today + timedelta(days=amount))
        case "w":
            return _week(today, amount)
        case "m":
            return _month(today, amount)
        case _:
            return _year(today, amount)


def _number(text: str) -> int:
    return int(text) if text.isdigit() else NUMBERS[" ".join(text.split())]


def _weekend(today: date, which: str) -> Range:
    saturday = today - timedelta(days=today.weekday()) + timedelta(days=5)
    if which in {"last", "past", "previous"}:
        # said on a Sunday, "last weekend" is the one before
        saturday -= timedelta(weeks=1)
    elif which == "next":
        saturday += timedelta(weeks=1)
    return saturday, saturday + timedelta(days=1)


def _weekday(today: date, which: str, name: str) -> Range:
    ahead = (WEEKDAYS[name] - today.weekday()) % 7
    if which in {"last", "past", "previous"}:
        return _one(today + timedelta(days=ahead - 7))
    if which in {"this", "coming"}:
        return _one(today + timedelta(days=ahead))
    return _one(today + timedelta(days=ahead or 7))


def _season(today: date, which: str, name: str) -> Range | None:
    month = SEASONS[name]
    year = today.year
    if which in {"last", "past", "previous"} and today.month < month + 3:
        year -= 1
    elif which == "next" and today.month >= month:
        year += 1
    return date(year, month, 1), _month(date(year, month, 1), 2)[1]


def _which(found: re.Match[str], today: date) -> Range | None:
    """ "last week", "next Friday", "this month", "last summer" """
    which, what = found["which"].lower(), found["what"].lower()
    ahead = {"last": -1, "past": -1, "previous": -1, "next": 1, "coming": 1}.get(which, 0)
    if what in WEEKDAYS:
        return _weekday(today, which, what)
    if what in SEASONS:
        return _season(today, which, what)
    if what in MONTHS:
        return _named_month(today, MONTHS[what], ahead)
    if what == "weekend":
        return _weekend(today, which)
    if what in {"night", "evening"}:
        return _one(today - timedelta(days=1)) if ahead < 0 else None
    return _unit(what, ahead, today)


def _named_month(today: date, month: int, ahead: int) -> Range:
    year = today.year
    if ahead < 0 and month >= today.month:
        year -= 1
    elif ahead > 0 and month <= today.month:
        year += 1
    return _month(date(year, month, 1))


def _nearest(today: date, month: int, day: int) -> date | None:
    """The date of that name nearest to today, which is what a day and a month without a year mean."""
    near = []
    for year in (today.year - 1, today.year, today.year + 1):
        try:
            near.append(date(year, month, day))
        except ValueError:
            continue
    return min(near, key=lambda candidate: abs((candidate - today).days), default=None)


_DATED = re.compile(r"\b(?:on|by|until|till|since|from|before|after)\s+$", re.IGNORECASE)


def _is_verb(found: re.Match[str]) -> bool:
    """Whether "5 may" or "march 5" is rather a number beside a verb."""
    if not re.fullmatch(_VERB, found["month"]) or re.search(r"\d(?:st|nd|rd|th)|\bof\b|\bthe\b|\d{4}", found[0]):
        return False
    ends_there = re.match(r"\s*(?:[.,;:!?)]|$)", found.string[found.end() :])
    return not ends_there and not _DATED.search(found.string[: found.start()])


def _calendar(found: re.Match[str], today: date) -> Range | None:
    """ "7 May 2023", "May 7th", "May 2023": parts of a date that name a month."""
    if _is_verb(found):
        return None
    groups = found.groupdict()
    month = MONTHS[groups["month"].lower()]
    day, year = groups.get("day"), groups.get("year")
    if day is None:
        return _month(date(int(year), month, 1)) if year else None
    if year is None:
        near = _nearest(today, month, int(day))
        return _one(near) if near else None
    try:
        return _one(date(int(year), month, int(day)))
    except ValueError:
        return None


def _iso(found: re.Match[str], _today: date) -> Range | None:
    try:
        return _one(date(int(found["year"]), int(found["month"]), int(found["day"])))
    except ValueError:
        return None


Rule = tuple[re.Pattern[str], Callable[[re.Match[str], date], Range | None]]


def _rule(pattern: str, meaning: Callable[[re.Match[str], date], Range | None]) -> Rule:
    return re.compile(pattern, re.IGNORECASE), meaning


RELATIVE: tuple[Rule, ...] = (
    _rule(r"\bthe day before yesterday\b", lambda _, today: _one(today - timedelta(days=2))),
    _rule(r"\bthe day after tomorrow\b", lambda _, today: _one(today + timedelta(days=2))),
    _rule(r"\byesterday\b", lambda _, today: _one(today - timedelta(days=1))),
    _rule(r"\btomorrow\b", lambda _, today: _one(today + timedelta(days=1))),
    _rule(
        rf"\b(?P<n>{_NUMBER})\s+(?P<unit>days?|weeks?|months?|years?)\s+(?:ago|back)\b",
        lambda found, today: _unit(found["unit"].lower(), -_number(found["n"].lower()), today),
    ),
    _rule(
        rf"\bin\s+(?P<n>{_NUMBER})\s+(?P<unit>days?|weeks?|months?|years?)\b(?!\s+ago)(?!['’])",
        lambda found, today: _unit(found["unit"].lower(), _number(found["n"].lower()), today),
    ),
    _rule(
        rf"\b(?!this\s+{_VERB})(?:(?:the|this)\s+)?(?P<which>last|past|previous|next|coming|this)\s+"
        rf"(?P<what>week|weekend|month|year|night|evening|spring|summer|fall|autumn|{_DAY}|{_MONTH})\b(?!['’]s)",
        _which,
    ),
)
CALENDAR: tuple[Rule, ...] = (
    _rule(rf"\b{_YEAR}-(?P<month>\d\d)-(?P<day>\d\d)\b", _iso),
    _rule(rf"\b{_ORDINAL}(?:\s+of)?\s+(?P<month>{_MONTH})\b\.?(?:,?\s+{_YEAR}\b)?", _calendar),
    _rule(rf"\b(?P<month>{_MONTH})\.?\s+(?:the\s+)?{_ORDINAL}\b(?!\s*(?:am|pm|:|%))(?:,?\s+{_YEAR}\b)?", _calendar),
    _rule(rf"\b(?P<month>{_MONTH})\.?,?\s+(?:of\s+)?{_YEAR}\b", _calendar),
)
# a word that most of the rules need; a text without one is not looked at further
HINT = re.compile(
    rf"yesterday|tomorrow|\bago\b|\bback\b|\bin\s|last|past|previous|next|coming|this|{_MONTH}|\d\d-\d\d",
    re.IGNORECASE,
)
QUESTION_MONTH = re.compile(
    rf"\b(?!this\s+{_VERB})(?:in|during|of|since|by|late|early|mid|around|until|last|this)[\s-]+(?P<month>{_MONTH})\b",
    re.IGNORECASE,
)
QUESTION_YEAR = re.compile(rf"\b{_YEAR}\b")


def _matches(rules: tuple[Rule, ...], text: str, today: date) -> Iterator[DateSpan]:
    for pattern, meaning in rules:
        for found in pattern.finditer(text):
            try:
                days = meaning(found, today)
            except (OverflowError, ValueError):  # before the calendar's first year
                continue
            if days is not None and days[0].year >= EARLIEST:
                yield DateSpan(found.start(), found.end(), *days)


def _without_overlaps(spans: Iterator[DateSpan]) -> list[DateSpan]:
    kept: list[DateSpan] = []
    for span in spans:
        if all(span.end <= other.start or span.start >= other.end for other in kept):
            kept.append(span)
    return sorted(kept, key=lambda span: span.start)


def local_day(said_at: datetime, time_zone: str) -> date:
    """The calendar day on which it was said, where the user lives; an unknown zone counts as UTC."""
    try:
        zone = ZoneInfo(time_zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return said_at.astimezone(UTC).date()
    return said_at.astimezone(zone).date()


def resolve(text: str, said_at: datetime, time_zone: str = "UTC") -> list[DateSpan]:
    """Time expressions of a message, in order, with the days they stand for."""
    if not HINT.search(text):
        return []
    today = local_day(said_at, time_zone)
    return _without_overlaps(_matches(RELATIVE + CALENDAR, text, today))


def annotate(text: str, said_at: datetime, time_zone: str = "UTC") -> str:
    """The text with the date in brackets behind each expression that doesn't say it in full."""
    pieces, at = [], 0
    for span in resolve(text, said_at, time_zone):
        words = text[span.start : span.end]
        if re.search(r"\d{4}", words):
            continue
        pieces += [text[at : span.end], f" ({span})"]
        at = span.end
    return "".join([*pieces, text[at:]])


def asked_about(question: str, now: datetime, time_zone: str = "UTC") -> list[tuple[date, date]]:
    """Ranges of days that a question names."""
    if not HINT.search(question) and not QUESTION_YEAR.search(question):
        return []
    spans = resolve(question, now, time_zone)
    if spans:
        return [(span.first, span.last) for span in spans]
    today = local_day(now, time_zone)
    years = [int(found["year"]) for found in QUESTION_YEAR.finditer(question)]
    months = [MONTHS[found["month"].lower()] for found in QUESTION_MONTH.finditer(question)]
    if months:
        return [_month(date(years[0], month, 1)) if years else _named_month(today, month, -1) for month in months]
    return [_year(date(year, 1, 1)) for year in years]
