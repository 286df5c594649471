"""What each backend cost today, against its daily budget.

Processes that share a home share the count, and a restart keeps it; several machines count each for itself.
"""

import fcntl
import os
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import orjson


def _utc_now() -> datetime:
    return datetime.now(UTC)


class DailyLedger:
    """Money by backend since midnight UTC; `merge` brings it together with what other processes counted."""

    def __init__(self, path: Path | None = None, now: Callable[[], datetime] = _utc_now) -> None:
        self._path = path
        self._now = now
        self._day = now().date().isoformat()
        self._shared: dict[str, float] = {}
        self._pending: defaultdict[str, float] = defaultdict(float)

    def spent(self, name: str) -> float:
        self._turn_over()
        return self._shared.get(name, 0.0) + self._pending.get(name, 0.0)

    def add(self, name: str, cost: float) -> None:
        self._turn_over()
        self._pending[name] += cost

    def until_midnight(self) -> float:
        """Return the seconds until every budget starts again."""
        now = self._now()
        return 86_400.0 - (now.hour * 3600 + now.minute * 60 + now.second)

    def merge(self) -> None:
        """Add what is pending to the shared file and read what others added. Blocks for a file's read and write."""
        self._turn_over()
        if self._path is None:
            return
        pending = dict(self._pending)
        try:
            self._shared = _added(self._path, self._day, pending)
        except OSError:
            return  # a home that can't be written: this process counts on alone
        for name, cost in pending.items():
            self._pending[name] -= cost

    def _turn_over(self) -> None:
        today = self._now().date().isoformat()
        if today != self._day:
            self._day = today
            self._shared.clear()
            self._pending.clear()


def _added(path: Path, day: str, pending: dict[str, float]) -> dict[str, float]:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(descriptor, "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            data = orjson.loads(file.read() or b"{}")
            totals = {str(name): float(cost) for name, cost in data["spent"].items()} if data.get("day") == day else {}
        except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
            totals = {}
        for name, cost in pending.items():
            totals[name] = totals.get(name, 0.0) + cost
        file.seek(0)
        file.truncate()
        file.write(orjson.dumps({"day": day, "spent": totals}))
    return totals


class Budget:
    """One backend's share of the ledger."""

    def __init__(self, ledger: DailyLedger, name: str, limit: float | None) -> None:
        self._ledger = ledger
        self._name = name
        self.limit = limit

    @property
    def spent(self) -> float:
        return self._ledger.spent(self._name)

    @property
    def is_exhausted(self) -> bool:
        return self.limit is not None and self.spent >= self.limit

    def add(self, cost: float) -> None:
        self._ledger.add(self._name, cost)

    def wait(self) -> float:
        """Return the seconds until the budget starts again."""
        return self._ledger.until_midnight()
