"""What a backend cost today, against its daily budget."""

from collections.abc import Callable
from datetime import UTC, datetime


class DailySpend:
    """Money since midnight UTC, as this process counted it."""

    def __init__(self, budget: float | None, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self.budget = budget
        self._now = now
        self._day = now().date()
        self._spent = 0.0

    @property
    def spent(self) -> float:
        self._turn_over()
        return self._spent

    @property
    def is_exhausted(self) -> bool:
        return self.budget is not None and self.spent >= self.budget

    def add(self, cost: float) -> None:
        self._turn_over()
        self._spent += cost

    def until_midnight(self) -> float:
        """Return the seconds until the budget starts again."""
        now = self._now()
        return 86_400.0 - (now.hour * 3600 + now.minute * 60 + now.second)

    def _turn_over(self) -> None:
        today = self._now().date()
        if today != self._day:
            self._day, self._spent = today, 0.0
