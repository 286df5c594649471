"""`rapport import`: from the command line to what is stored."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from service import cli
from tests.fixtures.service import LiveService

Import = Callable[..., Result]
CHAT = [
    {"user_name": "You", "character_name": "Seraphina", "create_date": "2023-6-8 @14h 21m 33s 123ms"},
    {"name": "Seraphina", "is_user": False, "mes": "Hello", "send_date": "June 19, 2023 2:20pm"},
]


@pytest.fixture
def bring(service_factory: Callable[..., LiveService], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Import:
    """The command beside a service that needn't run: it writes straight into the store."""
    for name, value in service_factory().environment.items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "chat.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in CHAT))
    return lambda *options: CliRunner().invoke(cli.app, ["import", str(file), "--user", "ana", *options])


def stored(url: str) -> list[tuple[str, datetime]]:
    async def read() -> list[tuple[str, datetime]]:
        connection = await asyncpg.connect(url)
        rows = await connection.fetch(
            "SELECT c.time_zone, m.created_at FROM messages m JOIN conversations c ON c.id = m.conversation_id"
        )
        await connection.close()
        return [tuple(row) for row in rows]

    return asyncio.run(read())


def test_clocks_without_a_zone_stand_where_the_command_says(bring: Import, superuser_url: str) -> None:
    done = bring("--time-zone", "Europe/Berlin")
    assert done.exit_code == 0, done.output
    assert stored(superuser_url) == [("Europe/Berlin", datetime(2023, 6, 19, 12, 20, tzinfo=UTC))]
    again = bring("--time-zone", "Europe/Berlin")
    assert again.exit_code == 0, again.output
    assert len(stored(superuser_url)) == 1


def test_without_a_zone_they_stand_at_utc(bring: Import, superuser_url: str) -> None:
    assert bring().exit_code == 0
    assert stored(superuser_url) == [("UTC", datetime(2023, 6, 19, 14, 20, tzinfo=UTC))]


@pytest.mark.parametrize("form", ["auto", "sillytavern", "mem0"])
def test_a_zone_that_nobody_knows_is_told_and_nothing_is_stored(bring: Import, superuser_url: str, form: str) -> None:
    refused = bring("--format", form, "--time-zone", "Mars/Olympus")
    assert refused.exit_code == 2
    assert "'Mars/Olympus' is not a time zone" in " ".join(refused.output.split())
    assert stored(superuser_url) == []
