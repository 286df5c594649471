"""What each kind of request may cost, and whom it counts for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from limits import parse_many

from service.limits.errors import LimitsConfigError

By = Literal["user", "address"]
Who = Literal["anybody", "anonymous", "authenticated"]


@dataclass(frozen=True, slots=True)
class Window:
    """At most `amount` in any `seconds`, counted for one user or one address."""

    name: str
    """Requests of several kinds share a window of the same name."""
    amount: int
    seconds: int
    by: By = "user"
    who: Who = "anybody"

    def __post_init__(self) -> None:
        if self.amount < 1 or self.seconds < 1:
            raise ValueError(f"the limit {self.name!r} must allow at least one request in at least a second")


# For these a limit that can't be asked refuses: they are what somebody who guesses or floods would try first.
CLOSED = frozenset({"mint", "login", "age"})


def parse_windows(kind: str, text: str, *, by: By = "user", who: Who = "anybody") -> tuple[Window, ...]:
    """Windows out of "60/minute; 1000/day". Raises `ValueError`."""
    items = [(item.amount, item.get_expiry()) for item in parse_many(text)]
    return tuple(Window(f"{kind}:{seconds}", amount, seconds, by, who) for amount, seconds in items)


def changed(windows: tuple[Window, ...], named: tuple[Window, ...]) -> tuple[Window, ...]:
    """What a kind allows once an operator has named windows for it.

    Each counts as the kind's first window does, for whom that one does. It replaces the window of its length that counts
    alike, else it stands beside the others: nobody takes a daily cap away by changing what a minute allows.
    """
    like = windows[0]
    found = list(windows)
    for window in named:
        same = (window.seconds, like.by, like.who)
        at = next((n for n, old in enumerate(found) if (old.seconds, old.by, old.who) == same), None)
        if at is None:
            found.append(replace(window, by=like.by, who=like.who))
        else:
            found[at] = replace(found[at], amount=window.amount)
    return tuple(found)


def default_windows(
    per_minute: int, anonymous_per_day: int, authenticated_per_day: int
) -> dict[str, tuple[Window, ...]]:
    return {
        "turn": (
            Window("turn", per_minute, 60),
            Window("day", anonymous_per_day, 86_400, who="anonymous"),
            Window("day", authenticated_per_day, 86_400, who="authenticated"),
            # whoever throws anonymous ids away counts under one address all the same
            Window("anonymous-address", 10 * anonymous_per_day, 86_400, by="address", who="anonymous"),
        ),
        "read": parse_windows("read", "1200/minute"),
        "write": parse_windows("write", "300/minute"),
        "search": parse_windows("search", "60/minute"),
        "import": parse_windows("import", "30/hour"),
        "mint": (*parse_windows("mint", "10/minute; 100/day", by="address"),),
        "login": parse_windows("login", "30/minute", by="address"),
        # requests that prove nobody: who guesses tokens, or floods with none
        "refused": parse_windows("refused", "120/minute", by="address"),
        "age": (*parse_windows("age", "20/hour"), *parse_windows("age-address", "120/hour", by="address")),
    }


@dataclass(frozen=True, slots=True)
class LimitsConfig:
    redis_url: str | None = None
    """None keeps the counters in memory, for the one process that then runs."""
    per_minute: int = 60
    anonymous_per_day: int = 100
    authenticated_per_day: int = 1000
    overrides: str = ""
    """`kind=windows` pairs joined by commas: `import=10/hour, search=30/minute; 500/day`. A window replaces the kind's one
    of the same length, or is added; `changed` says how."""
    streams_per_user: int = 6
    streams_per_address: int = 60
    instances: int = 1
    """How many instances share the load; without Redis each allows its share."""
    timeout: float = 0.05
    rest: float = 5.0
    windows: Mapping[str, tuple[Window, ...]] = field(init=False)

    def __post_init__(self) -> None:
        windows = default_windows(self.per_minute, self.anonymous_per_day, self.authenticated_per_day)
        for pair in filter(None, (part.strip() for part in self.overrides.split(","))):
            kind, equals, text = pair.partition("=")
            kind = kind.strip()
            if not equals or kind not in windows:
                raise LimitsConfigError(f"RATE_LIMITS knows {', '.join(sorted(windows))}, not {pair!r}")
            try:
                windows[kind] = changed(windows[kind], parse_windows(kind, text))
            except ValueError as error:
                raise LimitsConfigError(f"RATE_LIMITS: {text.strip()!r} is not like 60/minute; 1000/day") from error
        object.__setattr__(self, "windows", windows)
