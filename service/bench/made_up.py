"""A store full of made-up conversations, to measure speed and size with.

Messages are of real words, commoner ones more often; vectors are random around a few hundred topics, so that an index
finds neither noise nor twins. Users who are asked go through the product's own indexing; the others are copies of one of
them, made inside the server, a sitting of messages at a time for all users in turn. The rows of those who are asked are
written anew in between, so that they too lie as far apart as they would after months of everybody's talk.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import numpy as np
from uuid_utils.compat import uuid7

from memory import associations
from memory.ports import Vectors
from memory.postgres import Database, be_patient
from memory.retrieval import EpisodeRow, RecallQuery, index_messages

TOPICS, DIMENSIONS, CHUNK, SITTING = 400, 384, 500, 25
PATIENCE = 600.0
"""Seconds for a statement that copies many rows."""
START = datetime(2024, 1, 1, tzinfo=UTC)

COPY = """
INSERT INTO episodes (user_id, message_id, conversation_id, seq, role, speaker, route, said_at, text, traits, terms,
    lexical, embedding, known_words)
SELECT u.id, gen_random_uuid(), u.id, e.seq, e.role, e.speaker, e.route, e.said_at, e.text, e.traits, e.terms,
    e.lexical, e.embedding, e.known_words
FROM unnest($2::uuid[]) AS u(id), episodes e WHERE e.user_id = $1 AND e.seq BETWEEN $3 AND $4
"""
# a row that is changed is written to the end of the table
MOVE = "UPDATE episodes SET seq = seq WHERE user_id = ANY ($1::uuid[]) AND seq BETWEEN $2 AND $3"
COPY_COUNTS = """
INSERT INTO term_counts (user_id, term, episodes)
SELECT u.id, c.term, c.episodes FROM unnest($2::uuid[]) AS u(id), term_counts c WHERE c.user_id = $1
"""
TABLES = ("episodes", "term_counts", "postings", "memory_cells")


class Maker:
    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._words = np.array([word for word in associations.table().words if word.isalpha()])
        self._topics = self._random.normal(size=(TOPICS, DIMENSIONS))
        ranks = 1 / np.arange(1, len(self._words) + 1)
        self._shares = np.cumsum(ranks / ranks.sum())

    def text(self, words: int) -> str:
        places = np.searchsorted(self._shares, self._random.random(words))
        return " ".join(self._words[np.minimum(places, len(self._words) - 1)].tolist())

    def vectors(self, count: int) -> Vectors:
        near = self._topics[self._random.integers(TOPICS, size=count)]
        made = near + 0.8 * self._random.normal(size=(count, DIMENSIONS))
        unit: Vectors = (made / np.linalg.norm(made, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def messages(self, conversation_id: UUID, first: int, count: int) -> list[EpisodeRow]:
        lengths = self._random.integers(5, 40, size=count)
        return [
            EpisodeRow(
                conversation_id,
                first + n,
                uuid7(),
                "assistant" if n % 2 else "user",
                "Melanie" if n % 2 else "Caroline",
                self.text(int(lengths[n])),
                START + timedelta(minutes=first + n),
                "general",
                vector,
            )
            for n, vector in enumerate(self.vectors(count))
        ]

    def question(self, user_id: UUID) -> RecallQuery:
        """As a turn asks: twelve memories, 800 tokens."""
        return RecallQuery(
            user_id=user_id,
            text=f"When did Caroline mention {self.text(6)}?",
            vector=self.vectors(1)[0],
            routes=("general",),
            token_budget=800,
            limit=12,
            now=START + timedelta(days=365),
            names=("Caroline", "Melanie"),
        )


async def make_user(database: Database) -> UUID:
    user_id = uuid4()
    async with database.as_user(user_id) as connection:
        await connection.execute(
            "INSERT INTO users (user_id, issuer, subject) VALUES ($1, 'bench', $2)", user_id, str(user_id)
        )
    return user_id


async def grow(database: Database, maker: Maker, user_id: UUID, first: int, last: int) -> None:
    """Messages `first` … `last` of the user's one conversation."""
    for start in range(first, last + 1, CHUNK):
        rows = maker.messages(user_id, start, min(CHUNK, last + 1 - start))
        async with database.as_user(user_id) as connection:
            await index_messages(connection, user_id, rows)


async def copy_user(
    database: Database, source: UUID, copies: Sequence[UUID], messages: int, among: Sequence[UUID] = ()
) -> None:
    """Users with the same messages, and the rows of `among` between theirs.

    Triggers stand aside: what they would count is copied too.
    """
    async with database.system() as connection:
        await connection.execute("ALTER TABLE episodes DISABLE TRIGGER USER")
    try:
        for first in range(1, messages + 1, SITTING):
            for start in range(0, len(copies), 2_000):
                async with database.system() as connection:
                    await be_patient(connection, PATIENCE)
                    part = copies[start : start + 2_000]
                    await connection.execute(COPY, source, part, first, first + SITTING - 1, timeout=PATIENCE)
            async with database.system() as connection:
                await be_patient(connection, PATIENCE)
                await connection.execute(MOVE, list(among), first, first + SITTING - 1, timeout=PATIENCE)
        for start in range(0, len(copies), 500):
            async with database.system() as connection:
                await be_patient(connection, PATIENCE)
                await connection.execute(COPY_COUNTS, source, copies[start : start + 500], timeout=PATIENCE)
    finally:
        async with database.system() as connection:
            await connection.execute("ALTER TABLE episodes ENABLE TRIGGER USER")


async def settle(dsn: str) -> None:
    """What autovacuum does sooner or later: statistics, and pages known to be seen by all."""
    connection = await asyncpg.connect(dsn)
    try:
        for table in TABLES:
            await connection.execute(f"VACUUM (ANALYZE) {table}", timeout=PATIENCE)
    finally:
        await connection.close()


async def sizes(database: Database) -> dict[str, int]:
    """Bytes of each table, with its indexes and what lies outside of its rows."""
    async with database.system() as connection:
        return {
            table: int(
                await connection.fetchval(
                    """SELECT sum(pg_total_relation_size(coalesce(i.inhrelid, c.oid))) FROM pg_class c
                    LEFT JOIN pg_inherits i ON i.inhparent = c.oid WHERE c.oid = $1::text::regclass""",
                    table,
                )
            )
            for table in TABLES
        }
