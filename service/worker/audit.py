"""`rapport memory audit`, and the same every night: how much of what is remembered should not be there."""

import orjson
import structlog
from rich.console import Console
from rich.table import Table

from memory.audit import Report, audit_memories, keep_report, latest_report
from memory.errors import StoreUnavailableError
from memory.metrics import JUNK, JUNK_RATE
from memory.postgres import Database, PoolConfig
from service.sealing import open_database
from service.settings import Settings

log = structlog.get_logger(__name__)


async def nightly_audit(database: Database) -> None:
    report = await audit_memories(database)
    await keep_report(database, report)
    _observe(report.rate, report.found)
    log.info("memory_audited", facts=report.facts, junk=report.junk, rate=round(report.rate, 4))


async def recall_last_audit(database: Database) -> None:
    """Show the last night's figures again after a restart, instead of zeros."""
    try:
        report = await latest_report(database)
    except StoreUnavailableError:
        return
    if report is not None:
        _observe(report["junk_rate"], report["found"])


def _observe(rate: float, found: dict[str, int]) -> None:
    JUNK_RATE.set(rate)
    for what, number in found.items():
        JUNK.labels(what).set(number)


async def main(settings: Settings, *, as_json: bool = False) -> int:
    """Audit now and print it; gives the exit status: 0, or 1 when the junk rate is above the goal."""
    database = open_database(settings, PoolConfig(settings.database_url.get_secret_value(), 1, 1))
    await database.open()
    try:
        report = await audit_memories(database)
        await keep_report(database, report)
    finally:
        await database.close()
    if as_json:
        print(orjson.dumps(report.as_json()).decode())  # noqa: T201
    else:
        _show(report)
    return 0 if report.clean else 1


def _show(report: Report) -> None:
    table = Table(title=f"{report.facts} current facts of {report.users} users")
    table.add_column("found")
    table.add_column("facts", justify="right")
    table.add_column("meaning")
    for what, number in report.found.items():
        table.add_row(what.replace("_", " "), str(number), report.MEANINGS[what])
    console = Console()
    console.print(table)
    console.print(f"junk rate: [bold]{report.rate:.2%}[/bold] (goal: under {report.GOAL:.0%})")
