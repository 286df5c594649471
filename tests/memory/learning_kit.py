"""What tests of learning share: conversations, a reasoner that answers as told, vectors without a model."""

import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np
import orjson
from uuid_utils.compat import uuid7

from memory import transcript
from memory.errors import ReasonerUnavailableError
from memory.learning import LearnConfig, Learnt, learn
from memory.ports import Vectors
from memory.postgres import Database, PoolConfig
from memory.transcript import ImportedMessage, Owner

QUICK = LearnConfig(lease_seconds=1.0, retry_seconds=0.01, away_seconds=0.01)
SAID = datetime(2026, 5, 7, 10, 0, tzinfo=UTC)
"""A Thursday."""


class HashEmbedder:
    """Words hashed into a vector: equal texts are equal, similar ones similar."""

    name = "hash"
    dimensions = 384

    def __init__(self) -> None:
        self.texts = 0

    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        self.texts += len(texts)
        vectors = np.zeros((len(texts), self.dimensions), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().split():
                vectors[
                    row, int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest()) % self.dimensions
                ] += 1
            vectors[row, 0] += 1e-3
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors

    async def aclose(self) -> None:
        """Nothing is held."""


Answer = str | Exception | Callable[[str], str]


class ToldReasoner:
    """Answers what it was told to, in turn; the last answer repeats."""

    name = "told"

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.prompts: list[str] = []

    async def structured(
        self, system: str, examples: Sequence[tuple[str, str]], prompt: str, schema: dict[str, Any]
    ) -> str:
        self.prompts.append(prompt)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer if isinstance(answer, str) else answer(prompt)


def fact(line: int, quote: str, text: str, kind: str = "user") -> dict[str, Any]:
    return {"line": line, "quote": quote, "kind": kind, "text": text}


def answer(*facts: dict[str, Any]) -> str:
    return orjson.dumps({"facts": list(facts)}).decode()


AWAY = ReasonerUnavailableError("no backend")


COLUMNS = """id, kind, topic, slot, text, quote, route, status, said_at, due_at, valid_from, valid_to, learnt_at, superseded_by,
    uncertain_because, pinned, confirmations, source_seq, ordinal, embedding IS NOT NULL AS embedded"""


class Talk:
    """One user's conversation."""

    def __init__(self, database: Database, user: str = "ana") -> None:
        self.database = database
        self.user_id: UUID = uuid5(NAMESPACE_URL, f"tests\0{user}")
        self.id: UUID = uuid7()
        self.owner = Owner(self.user_id, "tests", user)
        self.embedder = HashEmbedder()

    async def open(
        self, *, route: str = "general", companion: str = "Mira", time_zone: str = "Europe/Berlin"
    ) -> "Talk":
        async with self.database.as_user(self.user_id) as connection:
            await transcript.create_conversation(
                connection, self.owner, self.id, route=route, companion_name=companion, time_zone=time_zone
            )
        return self

    async def say(self, *lines: str | tuple[str, str], at: datetime = SAID) -> int:
        """Append messages, the user's unless a role is given; returns the first one's seq."""
        messages = []
        for minute, line in enumerate(lines):
            role, text = line if isinstance(line, tuple) else ("user", line)
            messages.append(ImportedMessage(uuid7(), role, None, text, at + timedelta(minutes=minute)))
        async with self.database.as_user(self.user_id) as connection:
            return await transcript.append_imported(connection, self.user_id, self.id, messages)

    async def learn(self, reasoner: ToldReasoner, config: LearnConfig = QUICK) -> Learnt:
        return await learn(self.database, reasoner, self.embedder, self.user_id, self.id, config)

    async def teach(self, line: str | tuple[str, str], *facts: dict[str, Any], at: datetime = SAID) -> Learnt:
        """Say one line, and learn from it what the reasoner then claims."""
        await self.say(line, at=at)
        return await self.learn(ToldReasoner(answer(*facts)))

    async def facts(self) -> list[Any]:
        async with self.database.as_user(self.user_id) as connection:
            return await connection.fetch(
                f"SELECT {COLUMNS} FROM facts WHERE user_id = $1 ORDER BY learnt_at, source_seq, ordinal", self.user_id
            )

    async def texts(self, *statuses: str) -> list[str]:
        return [row["text"] for row in await self.facts() if row["status"] in (statuses or ("active", "uncertain"))]

    async def row(self) -> Any:
        async with self.database.system() as connection:
            return await connection.fetchrow(
                "SELECT * FROM conversations WHERE user_id = $1 AND id = $2", self.user_id, self.id
            )

    async def count(self, table: str) -> int:
        async with self.database.system() as connection:
            return int(await connection.fetchval(f"SELECT count(*) FROM {table} WHERE user_id = $1", self.user_id))


@asynccontextmanager
async def opened(dsn: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(dsn, 2, 8))
    await database.open()
    try:
        yield database
    finally:
        await database.close()
