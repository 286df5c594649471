"""`rapport memory quarantine` as an operator types it."""

import asyncio
import itertools
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from memory.postgres import Database
from tests.fixtures import forks
from tests.memory.learning_kit import Talk, ToldReasoner, opened

RUNS = itertools.count()
SAID = "I moved to Lisbon for work."


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def talk(database: Database) -> Talk:
    """A conversation whose only message was put aside."""
    talk = await Talk(database).open()
    await talk.say(SAID)
    async with database.system() as connection:  # five attempts that never came back
        await connection.execute("UPDATE conversations SET learn_attempts = 5")
    assert (await talk.learn(ToldReasoner(""))).status == "quarantined"
    return talk


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAPPORT_", "DATABASE_"))}
    return {
        **plain,
        "DATABASE_URL": database_url,
        "RAPPORT_HOME": str(tmp_path),
        "RAPPORT_MASTER_KEY": "off",
        "LLM_BACKENDS": '[{"name": "scripted", "kind": "scripted"}]',
        "COLUMNS": "200",
        "LOG_LEVEL": "error",
    }


async def typed(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """The exit status, and all that was printed."""
    log = Path(environment["RAPPORT_HOME"]) / f"{next(RUNS)}.log"
    process = forks.parent().start(("memory", "quarantine", *arguments), environment, log)
    status = await asyncio.to_thread(process.wait, 120)
    return status, log.read_text()


async def shown(environment: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    status, output = await typed(environment, "--json", *arguments)
    return status, json.loads(output)


async def test_it_is_shown_and_put_back(talk: Talk, environment: dict[str, str]) -> None:
    status, output = await typed(environment)
    assert status == 0, output
    assert str(talk.id) in output
    assert "interrupted" in output
    assert "Lisbon" not in output

    status, found = await shown(environment)
    (place,) = found["ranges"]
    assert status == 0
    assert place.pop("since").startswith("20")
    assert place == {
        "conversation_id": str(talk.id),
        "from_seq": 1,
        "to_seq": 1,
        "attempts": 5,
        "last_error": "interrupted",
    }

    status, found = await shown(environment, "--retry", str(talk.id))
    assert (status, found) == (0, {"ranges": [], "retried": {"learnt": 1, "facts": 1}})
    assert await talk.texts() == ["The user lives in Lisbon for work."]
    assert (await typed(environment))[1].strip() == "Nothing is in quarantine."
    assert await shown(environment, "--retry") == (0, {"ranges": [], "retried": {}})


async def test_without_a_model_that_answers_it_stays(talk: Talk, environment: dict[str, str]) -> None:
    away = '[{"name": "away", "url": "http://127.0.0.1:9/v1", "model": "none"}]'
    status, output = await typed({**environment, "LLM_BACKENDS": away}, "--retry")
    assert status == 1, output
    assert "1 postponed" in output
    assert str(talk.id) in output
    assert await talk.count("quarantine") == 1


async def test_a_conversation_of_which_nothing_is_put_aside_is_told(talk: Talk, environment: dict[str, str]) -> None:
    stranger = uuid4()
    status, output = await typed(environment, "--retry", str(talk.id), str(stranger))
    assert status == 2
    assert f"Not in quarantine: {stranger}." in output
    assert await talk.count("quarantine") == 1, "nothing was tried"
