"""How fast recall is through the store: `python -m service.bench.speed --rows 1000000 --users 1000 --large 100000`.

Fills a database of its own with made-up conversations, asks made-up questions, prints percentiles and the plan. Rows of
users who are not asked are copied inside the server; those of users who are asked go through the product's own indexing.
Vectors are random around a few hundred topics, so that an index finds neither noise nor twins.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
from uuid_utils.compat import uuid7

from memory import associations, lexical
from memory.many import index_many
from memory.ports import Vectors
from memory.postgres import Connection, Database, PoolConfig
from memory.retrieval import EpisodeRow, RecallQuery, index_messages, recall
from memory.statements import RECALL
from service.bench.scratch import scratch_database

TOPICS, DIMENSIONS, CHUNK = 400, 384, 500
START = datetime(2024, 1, 1, tzinfo=UTC)

COPY = """
INSERT INTO episodes (user_id, message_id, conversation_id, seq, role, speaker, route, said_at, text, traits, terms,
    lexical, embedding, known_words)
SELECT u.id, gen_random_uuid(), u.id, e.seq, e.role, e.speaker, e.route, e.said_at, e.text, e.traits, e.terms,
    e.lexical, e.embedding, e.known_words
FROM episodes e, unnest($2::uuid[]) AS u(id) WHERE e.user_id = $1
"""


@dataclass(frozen=True, slots=True)
class Sizes:
    rows: int
    users: int
    asked: int
    large: int
    questions: int


class Maker:
    """Messages of made-up words, commoner ones more often, with vectors that lie around topics."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._words = [word for word in associations.table().words if word.isalpha()]
        self._topics = self._random.normal(size=(TOPICS, DIMENSIONS))
        ranks = 1 / np.arange(1, len(self._words) + 1)
        self._shares = ranks / ranks.sum()

    def text(self, words: int) -> str:
        return " ".join(self._random.choice(self._words, size=words, p=self._shares).tolist())

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
        return RecallQuery(
            user_id=user_id,
            text=f"When did Caroline mention {self.text(6)}?",
            vector=self.vectors(1)[0],
            routes=("general",),
            token_budget=1000,
            limit=30,
            now=START + timedelta(days=365),
            names=("Caroline", "Melanie"),
        )


async def make_user(database: Database, maker: Maker, messages: int) -> UUID:
    user_id = uuid4()
    async with database.as_user(user_id) as connection:
        await connection.execute(
            "INSERT INTO users (user_id, issuer, subject) VALUES ($1, 'bench', $2)", user_id, str(user_id)
        )
    conversation_id = uuid7()
    for first in range(1, messages + 1, CHUNK):
        rows = maker.messages(conversation_id, first, min(CHUNK, messages + 1 - first))
        async with database.as_user(user_id) as connection:
            await index_messages(connection, user_id, rows)
    return user_id


async def fill(database: Database, maker: Maker, sizes: Sizes) -> list[UUID]:
    """Make the users who are asked, and copy one of them until the table has its rows."""
    each = sizes.rows // sizes.users
    asked = [await make_user(database, maker, each) for _ in range(sizes.asked)]
    others = [uuid4() for _ in range(sizes.users - sizes.asked)]
    for start in range(0, len(others), 20):
        async with database.system() as connection:
            await connection.execute(COPY, asked[0], others[start : start + 20], timeout=600)
        _say(f"{(start + sizes.asked) * each:,} rows", end="\r")
    async with database.system() as connection:
        await connection.execute("ANALYZE episodes", timeout=600)
        await connection.execute("ANALYZE term_counts", timeout=600)
    return asked


async def ask(database: Database, maker: Maker, users: Sequence[UUID], questions: int) -> list[float]:
    """Milliseconds of each recall, transaction included, embedding apart."""
    taken = []
    for n in range(questions + 20):
        query = maker.question(users[n % len(users)])
        began = time.perf_counter()
        async with database.as_user(query.user_id) as connection:
            await recall(connection, query)
        taken.append((time.perf_counter() - began) * 1000)
    return sorted(taken[20:])


async def plan(connection: Connection, query: RecallQuery) -> str:
    vector = None if query.vector is None else query.vector.tolist()
    terms = [lexical.term_id(term, query.user_id) for term in lexical.terms(query.text)]
    rows = await connection.fetch(
        f"EXPLAIN (ANALYZE, COSTS OFF, TIMING OFF, BUFFERS OFF) {RECALL}",
        query.user_id,
        list(query.routes),
        vector,
        terms,
        None,
        None,
    )
    return "\n".join(row[0] for row in rows)


async def report(database: Database, maker: Maker, label: str, users: Sequence[UUID], questions: int) -> None:
    times = await ask(database, maker, users, questions)
    async with database.as_user(users[0]) as connection:
        explained = await plan(connection, maker.question(users[0]))
    middle, late = times[len(times) // 2], times[int(0.95 * len(times))]
    _say(f"\n{label}: p50 {middle:.1f} ms, p95 {late:.1f} ms, best {times[0]:.1f} ms over {len(times)} questions")
    _say(explained)


async def measure(dsn: str, sizes: Sizes) -> None:
    database = Database(PoolConfig(dsn, size=2, overflow=2, command_timeout=600))
    maker = Maker(7)
    try:
        asked = await fill(database, maker, sizes)
        label = f"{sizes.rows // sizes.users:,} memories each of {sizes.users:,} users"
        await report(database, maker, label, asked, sizes.questions)
        if sizes.large:
            large = await make_user(database, maker, sizes.large)
            began = time.monotonic()
            await index_many(database, read_all=sizes.large - 1)
            _say(f"\nindexed {sizes.large:,} memories of one user in {time.monotonic() - began:.0f} s")
            await report(database, maker, f"{sizes.large:,} memories of one user", [large], sizes.questions)
    finally:
        await database.close()


def _say(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m service.bench.speed", description=__doc__)
    parser.add_argument("--rows", type=int, default=100_000, help="messages of all users together")
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--asked", type=int, default=10, help="users who are asked")
    parser.add_argument("--large", type=int, default=0, help="messages of one more user, who has very many")
    parser.add_argument("--questions", type=int, default=200)
    sizes = Sizes(**vars(parser.parse_args(arguments)))
    with scratch_database() as dsn:
        asyncio.run(measure(dsn, sizes))


if __name__ == "__main__":
    main()
