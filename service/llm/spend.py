"""What each backend cost today, against its daily budget: one count in PostgreSQL for all instances and workers."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, date, datetime

import structlog

from memory.errors import StoreUnavailableError
from memory.postgres import Database

log = structlog.get_logger(__name__)

LOOK_SECONDS = 5.0
"""Between looks at what others spent while nothing is spent here."""
GATHER_SECONDS = 0.25
"""What is spent here is told after this long: an overrun is what all instances spend in that time, no more."""
FIRST_SECONDS = 2.0
"""What the first call of a process waits, at most, to hear what was spent before it."""

# in order of their names, so that two instances never hold each other's rows
ADD = """
WITH added AS (
    INSERT INTO backend_spend AS kept (day, backend, cost)
    SELECT $1::date, name, cost FROM unnest($2::text[], $3::float8[]) AS spent (name, cost) ORDER BY name
    ON CONFLICT (day, backend) DO UPDATE SET cost = kept.cost + excluded.cost
    RETURNING backend, cost
)
SELECT backend, cost FROM added
UNION ALL
SELECT backend, cost FROM backend_spend WHERE day = $1::date AND backend <> ALL ($2::text[])
"""


def _utc_now() -> datetime:
    return datetime.now(UTC)


class PostgresSpend:
    """The table backend_spend, where all instances add up what they spent."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, day: date, spent: Mapping[str, float]) -> Mapping[str, float]:
        """Add to the day's totals and return them. Raises `StoreUnavailableError`."""
        async with self._database.system() as connection:
            rows = await connection.fetch(ADD, day, list(spent), list(spent.values()))
        return {row["backend"]: row["cost"] for row in rows}


class DailyLedger:
    """Money by backend since midnight UTC; without `shared`, of this process alone."""

    def __init__(self, shared: PostgresSpend | None = None, now: Callable[[], datetime] = _utc_now) -> None:
        self._shared_by = shared
        self._now = now
        self._day = now().date()
        self._totals: dict[str, float] = {}
        self._pending: defaultdict[str, float] = defaultdict(float)
        self._spent_here = asyncio.Event()
        self._looked = asyncio.Event()
        self._away = False

    def spent(self, name: str) -> float:
        self._turn_over()
        return self._totals.get(name, 0.0) + self._pending.get(name, 0.0)

    def add(self, name: str, cost: float) -> None:
        self._turn_over()
        self._pending[name] += cost
        self._spent_here.set()

    def until_midnight(self) -> float:
        """Return the seconds until every budget starts again."""
        now = self._now()
        return 86_400.0 - (now.hour * 3600 + now.minute * 60 + now.second)

    async def merge(self) -> None:
        """Add what was spent here to everybody's totals, and read them. With the store away this process counts on."""
        self._turn_over()
        if self._shared_by is None:
            return
        pending = {name: cost for name, cost in self._pending.items() if cost}
        try:
            totals = await self._shared_by.add(self._day, pending)
        except StoreUnavailableError as error:
            if not self._away:
                log.warning("spend_not_shared", reason=str(error), meaning="each instance counts for itself meanwhile")
            self._away = True
            return
        finally:
            self._looked.set()
        self._away = False
        self._totals = dict(totals)
        for name, cost in pending.items():
            self._pending[name] -= cost

    async def known(self) -> None:
        """Wait until what was spent before this process is known, or can't be."""
        if self._shared_by is not None and not self._looked.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(FIRST_SECONDS):
                    await self._looked.wait()

    async def keep_merged(self) -> None:
        """Merge for ever: soon after something was spent here, else now and then."""
        while True:
            await self.merge()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._spent_here.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._spent_here.clear()

    def _turn_over(self) -> None:
        today = self._now().date()
        if today != self._day:
            self._day = today
            self._totals.clear()
            self._pending.clear()


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

    async def known(self) -> None:
        if self.limit is not None:
            await self._ledger.known()

    def wait(self) -> float:
        """Return the seconds until the budget starts again."""
        return self._ledger.until_midnight()
