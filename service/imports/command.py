"""`rapport import FILE --user NAME`: straight into the store, with a bar that shows how far it is."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from memory.errors import LongTermMemoryError
from memory.postgres import PoolConfig
from memory.transcript import Owner
from service.errors import RapportError
from service.imports.neutral import neutral_lines
from service.imports.records import BrokenLineError
from service.imports.service import ImportOptions, ImportReport, import_conversation
from service.imports.times import zone_of
from service.openers import open_embedders
from service.principal import derive_user_id
from service.sealing import open_database
from service.settings import Settings
from service.translation import translate

PORTION = 8_192
"""Bytes read at once: about a chunk of messages, so that the bar moves evenly."""
SHOWN_ERRORS = 20


def import_file(
    settings: Settings,
    path: Path,
    user: str,
    options: ImportOptions,
    *,
    conversation: str | None = None,
    console: Console | None = None,
) -> int:
    """Import the file for `user`, as `rapport token --user` names them; gives the exit status.

    `options.format` may also be "neutral", with `conversation` choosing one of the file. 0: imported, or here already;
    1: imported, but lines were broken; 2: nothing was imported.
    """
    console = console or Console(stderr=True)
    owner = Owner(derive_user_id(settings.auth_issuer, user), settings.auth_issuer, user)
    try:
        zone_of(options.time_zone)
        file = _open(path, options, conversation)
        report = asyncio.run(_run(settings, owner, file, console))
    except (RapportError, LongTermMemoryError) as error:
        console.print(f"Not imported. {translate(error).detail}", style="red", highlight=False, markup=False)
        return 2
    except BrokenLineError as error:
        console.print(f"Not imported. {error}.", style="red", highlight=False, markup=False)
        return 2
    except OSError as error:
        console.print(f"Not imported. {path}: {error.strerror or error}", style="red", highlight=False, markup=False)
        return 2
    _tell(report, console)
    return 1 if report.broken else 0


@dataclass(frozen=True, slots=True)
class _File:
    chunks: Iterable[bytes]
    size: int
    options: ImportOptions


def _open(path: Path, options: ImportOptions, conversation: str | None) -> _File:
    if options.format == "neutral":
        lines = list(neutral_lines(path, conversation))
        return _File(lines, sum(map(len, lines)), replace(options, format="rapport"))
    return _File(
        _portions(path), path.stat().st_size, replace(options, default_title=path.stem[:200], conversation=conversation)
    )


async def _run(settings: Settings, owner: Owner, file: _File, console: Console) -> ImportReport:
    read = 0

    async def source() -> AsyncIterator[bytes]:
        nonlocal read
        for chunk in file.chunks:
            read += len(chunk)
            yield chunk

    async with AsyncExitStack() as stack:
        database = open_database(settings, PoolConfig(settings.database_url.get_secret_value(), size=2, overflow=2))
        stack.push_async_callback(database.close)
        _, embedder = open_embedders(settings, database, stack)
        await embedder.refresh()
        with _bar(console) as bar:
            task = bar.add_task("", total=file.size, messages="")

            def show(report: ImportReport) -> None:
                bar.update(task, completed=read, messages=f"{report.imported + report.duplicates:,} messages")

            report = await import_conversation(database, embedder, owner, source(), file.options, progress=show)
            bar.update(task, completed=file.size)
            return report


def _portions(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while portion := file.read(PORTION):
            yield portion


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("Importing"),
        BarColumn(),
        DownloadColumn(),
        TextColumn("{task.fields[messages]}"),
        TimeRemainingColumn(),
        console=console,
    )


def _tell(report: ImportReport, console: Console) -> None:
    for line, reason in report.errors[:SHOWN_ERRORS]:
        console.print(f"line {line}: {reason}", style="yellow", highlight=False, markup=False)
    if report.broken > SHOWN_ERRORS:
        console.print(f"… and {report.broken - SHOWN_ERRORS:,} more broken lines", style="yellow", highlight=False)
    if report.already_there:
        said = f"Nothing new: all {report.duplicates + report.facts_known:,} were imported before"
    else:
        said = f"{report.imported:,} message{'' if report.imported == 1 else 's'} imported"
        if report.facts or report.facts_known or report.refused:
            said += f", {report.facts:,} statement{'' if report.facts == 1 else 's'} taken over"
        if report.duplicates + report.facts_known:
            said += f", {report.duplicates + report.facts_known:,} were here already"
    if report.refused:
        said += f", {report.refused:,} refused"
    if report.skipped:
        said += f", {report.skipped:,} lines skipped (hidden, empty or system)"
    where = f" Conversation {report.conversation_id}" if report.conversation_id else ""
    console.print(f"{said}.{where}", highlight=False, soft_wrap=True)
