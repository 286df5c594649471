"""Leaves a server, or one of its keys, alone for a while after it failed."""

from collections.abc import Callable

THRESHOLD = 3
FIRST_REST = 5.0
LONGEST_REST = 120.0


class CircuitBreaker:
    """Opens after failures in a row; then lets one call try, and closes or rests twice as long."""

    def __init__(self, clock: Callable[[], float], *, threshold: int = THRESHOLD) -> None:
        self._clock = clock
        self._threshold = threshold
        self._failures = 0
        self._rest = FIRST_REST
        self._until = 0.0
        self._trying = False

    @property
    def failures(self) -> int:
        """In a row, until now."""
        return self._failures

    @property
    def is_open(self) -> bool:
        """True when a call now would be refused."""
        return self.wait() > 0 or self._trying

    @property
    def is_tried(self) -> bool:
        """One call is out that decides whether the rest is over; others are refused until its outcome is known."""
        return self._trying

    def wait(self) -> float:
        """Return the seconds until a call may be tried."""
        return max(0.0, self._until - self._clock())

    def attempt(self) -> None:
        """Note that a call begins; after failures it is the only one until its outcome is known."""
        self._trying = self._failures >= self._threshold

    def abandon(self) -> None:
        """Note that a call ended without telling anything about the server."""
        self._trying = False

    def succeed(self) -> None:
        self._failures = 0
        self._rest = FIRST_REST
        self._until = 0.0
        self._trying = False

    def fail(self) -> None:
        self._failures += 1
        self._trying = False
        if self._failures >= self._threshold:
            self.pause(self._rest)
            self._rest = min(self._rest * 2, LONGEST_REST)

    def pause(self, seconds: float) -> None:
        """Refuse calls for `seconds`, as the server asked or its failures suggest."""
        self._until = max(self._until, self._clock() + seconds)
