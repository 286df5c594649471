"""`rapport memory reembed` as an operator uses it: killed in the middle, begun again, switched, and taken back."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from memory.embedders import MiniLmEmbedder
from memory.models import read_models
from memory.postgres import Database, PoolConfig
from memory.retrieval import RecallQuery, recall
from memory.transcript import Owner
from memory.word_embedder import WordEmbedder
from service.following import FollowingEmbedder
from service.imports.service import ImportOptions, import_conversation
from tests.fixtures import forks
from tests.fixtures.forks import Forked
from tests.memory.learning_kit import SAID, HashEmbedder
from tests.service.imports.test_service import lines, talk

RUNS = itertools.count()
OLD = MiniLmEmbedder.name
MESSAGES = 1_200


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(database_url, size=2, overflow=2))
    yield opened
    async with opened.system() as connection:
        await connection.execute("DELETE FROM embedding_models")
        await connection.execute(
            "INSERT INTO embedding_models (name, dimensions, slot, state) VALUES ($1, 384, 1, 'current')", OLD
        )
    await opened.close()


@pytest.fixture
def environment(database_url: str, tmp_path: Path) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith(("RAPPORT_", "DATABASE_"))}
    return {
        **plain,
        "DATABASE_URL": database_url,
        "RAPPORT_HOME": str(tmp_path),
        "RAPPORT_MASTER_KEY": "off",
        "COLUMNS": "200",
        "LOG_LEVEL": "warning",
    }


@dataclass
class Command:
    """`rapport memory reembed …` as a process, and what it prints."""

    process: Forked
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text()


def command(environment: dict[str, str], *arguments: str) -> Command:
    log = Path(environment["RAPPORT_HOME"]) / f"{next(RUNS)}.log"
    return Command(forks.parent().start(("memory", "reembed", *arguments), environment, log), log)


async def finished(running: Command) -> tuple[int, str]:
    status = await asyncio.to_thread(running.process.wait, 180)
    return status, running.output


async def count(database: Database, column: str) -> int:
    async with database.system() as connection:
        return int(await connection.fetchval(f"SELECT count({column}) FROM episodes"))


async def test_killed_begun_again_switched_and_taken_back(database: Database, environment: dict[str, str]) -> None:
    owner = Owner(uuid4(), "rapport", "caroline")
    said: list[dict[str, Any]] = [line | {"text": f"{line['text']} with my dog"} for line in talk(MESSAGES)]

    async def source() -> AsyncIterator[bytes]:
        yield lines({"rapport": 1, "title": "Friends", "user": "Caroline"}, *said)

    await import_conversation(database, HashEmbedder(), owner, source(), ImportOptions())

    async def finds() -> bool:
        query = RecallQuery(owner.user_id, "message about lake 77", None, ("general",), 500, 5, SAID)
        async with database.as_user(owner.user_id) as connection:
            return any("lake 77 " in item.text for item in await recall(connection, query))

    running = command(environment, "--to", "built-in-words")
    while not (made := await count(database, "embedding_b")):
        assert running.process.poll() is None, running.output
        assert await finds()
    os.kill(running.process.pid, signal.SIGKILL)
    await asyncio.to_thread(running.process.wait)
    made = await count(database, "embedding_b")
    assert 0 < made < MESSAGES
    assert await finds()

    status, output = await finished(command(environment, "--to", "built-in-words"))
    assert status == 0, output
    assert f"{MESSAGES - made:,} vectors of {WordEmbedder.name}" in output  # what was done is not done again
    assert "of the first ten agree" in output
    assert (await count(database, "embedding"), await count(database, "embedding_b")) == (MESSAGES, MESSAGES)

    following = FollowingEmbedder(MiniLmEmbedder(), database, lambda name: WordEmbedder())
    await following.refresh()
    assert (following.name, following.dimensions) == (WordEmbedder.name, 128)

    status, output = await finished(command(environment, "--back"))
    assert status == 0, output
    await following.refresh()
    assert following.name == OLD
    async with database.system() as connection:
        assert {state: found.name for state, found in (await read_models(connection)).items()} == {
            "current": OLD,
            "filling": WordEmbedder.name,
        }
    assert await finds()


async def test_what_cannot_be_done_is_one_sentence_and_a_status(
    database: Database, environment: dict[str, str]
) -> None:
    status, output = await finished(command(environment, "--to", "built-in"))
    assert (status, output.count("\n")) == (2, 1)
    assert f"The memories' vectors are of {OLD} already." in output
    async with database.system() as connection:
        await connection.execute(
            "INSERT INTO embedding_models (name, dimensions, slot, state) VALUES ($1, 300, 2, 'filling')",
            WordEmbedder.name,
        )
    status, output = await finished(command(environment, "--to", "built-in-words"))
    assert status == 2
    assert "makes vectors of 128 numbers, and those made of it before have 300" in output
