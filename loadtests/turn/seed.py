"""Users with something to remember: made-up talk, embedded by the real model, indexed as the worker does it."""

import asyncio
import itertools
import random
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

from uuid_utils.compat import uuid7

from memory import transcript
from memory.embedders import MiniLmEmbedder
from memory.indexing import EpisodeRow, embedding_text, index_messages
from memory.ports import Vectors
from memory.postgres import Database, PoolConfig
from memory.transcript import Owner
from service.auth.config import OWN_ISSUER
from service.principal import derive_user_id
from service.sealing import open_vault
from service.settings import Settings

START = datetime(2026, 1, 1, tzinfo=UTC)
CHUNK = 250
WHO = (
    "my sister Anna",
    "Tom from work",
    "our neighbour",
    "grandmother",
    "the dog",
    "my old teacher",
    "Mia",
    "the band",
)
DID = (
    "visited",
    "called about",
    "talked for hours about",
    "lost",
    "finally finished",
    "dreamt of",
    "bought",
    "repaired",
)
WHAT = (
    *("the garden by the lake", "a red bicycle", "the piano", "a recipe for plum cake", "that trip to Lisbon"),
    *("the new job at the library", "an old camera", "the marathon", "a pottery class", "the winter coat"),
)
WHEN = (
    "yesterday",
    "last weekend",
    "in March",
    "before the wedding",
    "on Tuesday evening",
    "two weeks ago",
    "at night",
)
THEN = ("It made me happy.", "I was rather tired afterwards.", "You would have laughed.", "Do you remember?", "")


def talk(count: int) -> list[str]:
    """`count` different things to say, the same ones every time."""
    every = [
        f"{who} {did} {what} {when}. {then}".strip()
        for who, did, what, when, then in itertools.product(WHO, DID, WHAT, WHEN, THEN)
    ]
    return random.Random(11).sample(every, count)


def seed(
    dsn: str, home: Path, tokens: Mapping[str, str], *, memories: int, conversations: int
) -> list[tuple[str, str]]:
    """Give each subject memories and empty conversations; returns (path of its turns, token), users in turn."""
    return asyncio.run(_seed(dsn, home, tokens, memories, conversations))


async def _seed(
    dsn: str, home: Path, tokens: Mapping[str, str], memories: int, conversations: int
) -> list[tuple[str, str]]:
    settings = Settings(RAPPORT_HOME=home, RAPPORT_EMBEDDED=True)
    database = Database(PoolConfig(dsn, size=2, overflow=2), open_vault(settings))
    texts = talk(memories)
    embedder = MiniLmEmbedder()
    made: list[list[tuple[str, str]]] = []
    try:
        roles = ["assistant" if n % 2 else "user" for n in range(memories)]
        vectors: list[Vectors] = []
        for start in range(0, memories, 64):
            part = zip(roles[start : start + 64], texts[start : start + 64], strict=True)
            vectors += list(await embedder.embed([embedding_text(None, role, text) for role, text in part]))
        for subject, token in tokens.items():
            owner = Owner(derive_user_id(OWN_ISSUER, subject), OWN_ISSUER, subject)
            ids = [await _conversation(database, owner) for _ in range(conversations)]
            await _remember(database, owner.user_id, ids[0], list(zip(roles, texts, vectors, strict=True)))
            made.append([(f"/v1/conversations/{conversation_id}/turns", token) for conversation_id in ids])
        async with database.system() as connection:
            await connection.execute("ANALYZE", timeout=120)
    finally:
        await database.close()
    return list(itertools.chain.from_iterable(zip(*made, strict=True)))


async def _conversation(database: Database, owner: Owner) -> UUID:
    async with database.as_user(owner.user_id) as connection:
        made = await transcript.create_conversation(
            connection, owner, uuid7(), route="general", title="", companion_name="Mia", persona="", time_zone="UTC"
        )
    return made.id


async def _remember(
    database: Database, user_id: UUID, conversation_id: UUID, said: list[tuple[str, str, Vectors]]
) -> None:
    rows = [
        EpisodeRow(conversation_id, n + 1, uuid7(), role, None, text, START + timedelta(hours=n), "general", vector)
        for n, (role, text, vector) in enumerate(said)
    ]
    for start in range(0, len(rows), CHUNK):
        async with database.as_user(user_id) as connection:
            await index_messages(connection, user_id, rows[start : start + CHUNK])
