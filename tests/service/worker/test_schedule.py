"""Jobs run at their time, on the database's clock, by one scheduler of several."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from prometheus_client import REGISTRY
from pydantic import SecretStr

from memory.audit import latest_report
from memory.errors import StoreUnavailableError
from memory.metrics import JUNK_RATE
from memory.postgres import Database
from service.settings import Settings
from service.worker import audit
from service.worker.schedule import Job, Schedule, expire, hourly, nightly
from tests.memory.learning_kit import Talk, fact, opened


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


async def make_due(database: Database) -> None:
    async with database.system() as connection:
        await connection.execute("UPDATE schedule SET due_at = now() - interval '1 second'")


async def test_of_several_schedulers_one_runs_a_due_job(database: Database) -> None:
    runs: list[str] = []

    async def run() -> None:
        runs.append("ran")
        await asyncio.sleep(0.05)

    schedulers = [Schedule(database, [Job("sweep", hourly, run)]) for _ in range(4)]
    await asyncio.gather(*(scheduler.run_due() for scheduler in schedulers))
    assert runs == [], "a job that is new waits for its time"
    await make_due(database)
    await asyncio.gather(*(scheduler.run_due() for scheduler in schedulers))
    assert runs == ["ran"]
    assert await schedulers[0].run_due() == []


@pytest.mark.parametrize("error", [ZeroDivisionError(), StoreUnavailableError("away")])
async def test_a_job_that_fails_is_run_again_soon(database: Database, error: Exception) -> None:
    async def fail() -> None:
        raise error

    schedule = Schedule(database, [Job("audit", nightly, fail)])
    await schedule.run_due()
    await make_due(database)
    assert await schedule.run_due() == ["audit"]
    async with database.system() as connection:
        soon, noted = await connection.fetchrow(  # type: ignore[misc]
            "SELECT due_at < now() + interval '11 minutes', last_error FROM schedule"
        )
    assert (soon, noted) == (True, type(error).__name__)


def test_times() -> None:
    assert hourly(datetime(2026, 5, 7, 10, 59, 30, tzinfo=UTC)) == datetime(2026, 5, 7, 11, tzinfo=UTC)
    assert nightly(datetime(2026, 5, 7, 2, tzinfo=UTC)) == datetime(2026, 5, 7, 3, tzinfo=UTC)
    assert nightly(datetime(2026, 5, 7, 3, tzinfo=UTC)) == datetime(2026, 5, 8, 3, tzinfo=UTC)


async def test_what_is_over_goes(database: Database) -> None:
    talk = await Talk(database).open()
    async with database.system() as connection:
        for token, until in (("old", timedelta(days=-2)), ("new", timedelta(days=2))):
            await connection.execute(
                "INSERT INTO revocations (user_id, token_id, expires_at) VALUES ($1, $2, now() + $3)",
                talk.user_id,
                token,
                until,
            )
    await expire(database)
    async with database.system() as connection:
        assert await connection.fetchval("SELECT array_agg(token_id) FROM revocations") == ["new"]


async def test_the_nightly_audit_is_kept_and_counted(database: Database) -> None:
    talk = await Talk(database).open()
    await talk.teach("I live in Lisbon.", fact(1, "I live in Lisbon", "The user lives in Lisbon."))
    async with database.system() as connection:
        await connection.execute("UPDATE facts SET quote = 'I live in Paris'")
    await audit.nightly_audit(database)
    report = await latest_report(database)
    assert report is not None
    assert (report["facts"], report["found"]["unsupported"]) == (1, 1)
    assert REGISTRY.get_sample_value("rapport_memory_junk_ratio") == 1.0
    assert REGISTRY.get_sample_value("rapport_memory_junk_facts", {"what": "unsupported"}) == 1.0
    JUNK_RATE.set(0)  # as after a restart
    await audit.recall_last_audit(database)
    assert REGISTRY.get_sample_value("rapport_memory_junk_ratio") == 1.0


async def test_the_audit_command_says_how_it_went_by_its_status(
    database: Database, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = Settings(DATABASE_URL=SecretStr(database_url), RAPPORT_MASTER_KEY=SecretStr("off"))
    talk = await Talk(database).open()
    await talk.teach("I live in Lisbon.", fact(1, "I live in Lisbon", "The user lives in Lisbon."))
    assert await audit.main(settings) == 0
    assert "junk rate" in capsys.readouterr().out
    async with database.system() as connection:
        await connection.execute("UPDATE facts SET quote = 'I live in Paris'")
    assert await audit.main(settings, as_json=True) == 1
    assert json.loads(capsys.readouterr().out)["junk_rate"] == 1.0
