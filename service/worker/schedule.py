"""What happens at its time: sweeps every second, expiry every hour, the audit every night.

Which job is due stands in PostgreSQL, on its clock: of several schedulers exactly one runs a job, and a job that was
due while none was up is run when one comes back (docs/decisions/times-are-kept-in-postgresql.md).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from memory.audit import drop_old_reports
from memory.errors import StoreUnavailableError
from memory.many import index_many
from memory.postgres import Database, PoolConfig
from service.auth.revocations import drop_expired
from service.sealing import open_database
from service.settings import Settings
from service.sweeper import Sweeper
from service.worker.audit import nightly_audit, recall_last_audit
from service.worker.broker import BrokerConfig, open_broker
from service.worker.metrics import RUNS
from service.worker.wakeups import DramatiqJobs

log = structlog.get_logger(__name__)

LOOK_SECONDS = 15.0
AFTER_FAILURE = timedelta(minutes=10)
AUDIT_HOUR = 3
"""UTC."""


@dataclass(frozen=True, slots=True)
class Job:
    name: str
    following: Callable[[datetime], datetime]
    """The next time after a moment at which it is due."""
    run: Callable[[], Awaitable[None]]


def hourly(now: datetime) -> datetime:
    return now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)


def nightly(now: datetime) -> datetime:
    tonight = now.astimezone(UTC).replace(hour=AUDIT_HOUR, minute=0, second=0, microsecond=0)
    return tonight if tonight > now else tonight + timedelta(days=1)


CLAIM = """
INSERT INTO schedule (name, due_at, last_started_at) VALUES ($1, $2, NULL)
ON CONFLICT (name) DO UPDATE SET due_at = excluded.due_at, last_started_at = now()
    WHERE schedule.due_at <= now()
RETURNING last_started_at IS NOT NULL
"""


class Schedule:
    def __init__(self, database: Database, jobs: Sequence[Job]) -> None:
        self._database = database
        self._jobs = jobs

    async def run_due(self) -> list[str]:
        """Run what is due now and nobody else runs; gives the names."""
        done = []
        for job in self._jobs:
            async with self._database.system() as connection:
                now: datetime = await connection.fetchval("SELECT now()")
                claimed = await connection.fetchval(CLAIM, job.name, job.following(now))
            if claimed:  # false: known from now on, and due at its time; none: not due, or another's
                done.append(job.name)
                await self._run(job)
        return done

    async def _run(self, job: Job) -> None:
        try:
            await job.run()
        except StoreUnavailableError:
            await self._note(job, "StoreUnavailableError")
        except Exception as error:
            log.exception("scheduled_job_failed", job=job.name)
            await self._note(job, type(error).__name__)
        else:
            RUNS.labels(job.name, "done").inc()
            log.info("scheduled_job_done", job=job.name)

    async def _note(self, job: Job, error: str) -> None:
        RUNS.labels(job.name, "failed").inc()
        async with self._database.system() as connection:
            await connection.execute(
                "UPDATE schedule SET due_at = least(due_at, now() + $2), last_error = $3 WHERE name = $1",
                job.name,
                AFTER_FAILURE,
                error,
            )

    async def run(self) -> None:
        """Look for due jobs for ever; cancelled at shutdown."""
        while True:
            try:
                await self.run_due()
            except StoreUnavailableError:
                log.warning("schedule_waits_for_database")
            except Exception:
                log.exception("schedule_failed")  # the jobs of all nights to come would end with it
            await asyncio.sleep(LOOK_SECONDS)


async def expire(database: Database) -> None:
    await drop_expired(database)
    await drop_old_reports(database)


async def _index_many(database: Database) -> None:
    """Bring users whose memories have grown very many into indexes of their own."""
    log.info("many_memories", users=await index_many(database))


async def run_schedule(settings: Settings, stopped: asyncio.Event) -> None:
    """Everything that happens at its time, until `stopped`."""
    async with AsyncExitStack() as stack:
        database = open_database(settings, PoolConfig(settings.database_url.get_secret_value(), 2, 2))
        stack.push_async_callback(database.close)
        jobs = Schedule(
            database,
            [
                Job("expire", hourly, lambda: expire(database)),
                Job("audit", nightly, lambda: nightly_audit(database)),
                Job("many-memories", nightly, lambda: _index_many(database)),
            ],
        )
        await recall_last_audit(database)
        tasks = [asyncio.create_task(jobs.run(), name="schedule")]
        if settings.redis_enabled:
            queue = DramatiqJobs(open_broker(BrokerConfig(settings.broker_url)))
            stack.push_async_callback(queue.aclose)
            tasks.append(asyncio.create_task(Sweeper(database, queue.wake_learner).run(), name="sweeper"))
        log.info("scheduler_started", sweeps=settings.redis_enabled)
        await stopped.wait()
        for task in tasks:
            task.cancel()
        for task in tasks:
            with suppress(asyncio.CancelledError):
                await task
