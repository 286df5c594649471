"""How the number of users moves over a run. All end after `--run-time`."""

import math
from collections.abc import Callable

SOAK_SECONDS = 2 * 3600.0
USUAL_SECONDS = 120.0


def _steady(_part: float) -> float:
    return 1.0


def _ramp(part: float) -> float:
    """Evenly up to everybody at nine tenths, which then stay."""
    return min(1.0, part / 0.9)


def _spike(part: float) -> float:
    """A fifth of the users; all of them at once in the middle third."""
    return 1.0 if 1 / 3 <= part < 2 / 3 else 0.2


PATHS: dict[str, Callable[[float], float]] = {"steady": _steady, "soak": _steady, "ramp": _ramp, "spike": _spike}


def users_at(shape: str, seconds: float, users: int, run_time: float | None) -> int | None:
    """How many users there are so long after the beginning; None when it is over."""
    length = run_time or (SOAK_SECONDS if shape == "soak" else USUAL_SECONDS)
    if seconds >= length:
        return None
    return max(1, math.ceil(users * PATHS[shape](seconds / length)))
