"""What a turn costs as one user's history grows, and as users grow: `make load-growth`.

python -m loadtests.growth --messages 100,1000,10000,100000 --users 10,1000,100000

Histories go through the product's own import into its own tables, with real vectors; users who are not asked are copies
of those who are, made inside the database. Then real turns are had through nginx, and timed.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import numpy as np
from uuid_utils.compat import uuid7

from loadtests.charts import Chart, Line
from loadtests.crowd import Wish, run
from loadtests.reports import Report, ms, new_folder
from loadtests.synthetic import Person, Teller, people, settle
from loadtests.table import figures
from loadtests.topology import Mock, Topology, running
from memory.embedders import EmbedderConfig, MiniLmEmbedder
from memory.imported import ImportTarget, SaidElsewhere, append_recallable
from memory.many import index_many
from memory.ports import Vectors
from memory.postgres import Database, PoolConfig
from service.sealing import open_database
from service.settings import Settings

CHUNK, CONVERSATION = 500, 1000
"""Messages of one transaction, and of one conversation."""
TEXTS = 1500
"""Different texts whose vectors are computed; each message is one of them with a number of its own and a vector close by."""
ASKED = 10
"""Users who talk while others only exist."""
COPIED = ("users", "conversations", "messages", "episodes", "term_counts")
QUICK = Mock(first_ms=50, between_ms=10, tokens=21)
NO_LIMITS = {"RATE_LIMIT_REQUESTS_PER_MINUTE": "100000", "RATE_LIMIT_AUTHENTICATED_PER_DAY": "1000000"}


class Histories:
    """Made-up histories with real vectors."""

    def __init__(self, texts: Sequence[str], vectors: Vectors) -> None:
        self._texts, self._vectors = texts, vectors
        self._random = np.random.default_rng(7)

    @classmethod
    async def make(cls) -> "Histories":
        teller = Teller(seed=3)
        texts = [teller.said() if n % 2 == 0 else teller.answered() for n in range(TEXTS)]
        async with MiniLmEmbedder(EmbedderConfig()) as embedder:
            return cls(texts, await embedder.embed(texts))

    async def append(self, database: Database, user_id: UUID, conversation_id: UUID, first: int, count: int) -> None:
        """Messages `first` and on, of both sides, an hour apart in the past."""
        began = datetime(2024, 1, 1, tzinfo=UTC)
        chosen = 2 * self._random.integers(TEXTS // 2, size=count) + np.arange(first, first + count) % 2
        noisy = self._vectors[chosen] + 0.03 * self._random.normal(size=(count, self._vectors.shape[1]))
        vectors: Vectors = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
        said = [
            SaidElsewhere(
                f"growth-{first + n}",
                "assistant" if (first + n) % 2 else "user",
                "Mel" if (first + n) % 2 else "Me",
                f"{self._texts[pick]} That was number {first + n}.",
                began + timedelta(hours=(first + n) % 20_000),
            )
            for n, pick in enumerate(chosen.tolist())
        ]
        async with database.as_user(user_id) as connection:
            await append_recallable(
                connection, user_id, ImportTarget(conversation_id, "general", "UTC", created=False), said, vectors
            )


@dataclass
class Store:
    """The topology's database, as the service opens it (sealed), and as its superuser does."""

    topology: Topology
    database: Database
    histories: Histories

    async def admin(self) -> "asyncpg.Connection[asyncpg.Record]":
        return await asyncpg.connect(self.topology.postgres.url("rapport", superuser=True), timeout=10)

    async def grow(self, person: Person, have: int, want: int) -> None:
        """Bring one user's history from so many messages to so many."""
        conversation = None
        for first in range(have, want, CHUNK):
            if conversation is None or first % CONVERSATION == 0:
                conversation = await self._conversation(person.user_id)
            await self.histories.append(self.database, person.user_id, conversation, first, min(CHUNK, want - first))

    async def _conversation(self, user_id: UUID) -> UUID:
        made = uuid7()
        async with self.database.as_user(user_id) as connection:
            await connection.execute(
                "INSERT INTO conversations (user_id, id, route, companion_name) VALUES ($1, $2, 'general', 'Mel')",
                user_id,
                made,
            )
        return made

    async def copy(self, like: UUID, count: int) -> None:
        """So many more users, each with all that one user has."""
        admin = await self.admin()
        try:
            for start in range(0, count, CHUNK):
                others = [uuid4() for _ in range(min(CHUNK, count - start))]
                async with admin.transaction():
                    # the counts of terms are copied too: triggers would count them anew, at many times the cost
                    await admin.execute("SET LOCAL session_replication_role = replica")
                    for table in COPIED:
                        await admin.execute(await _copying(admin, table), like, others, timeout=900)
        finally:
            await admin.close()

    async def settle_down(self) -> float:
        """Statistics as autovacuum would have made them by now; gives the database's size in MB."""
        admin = await self.admin()
        try:
            await admin.execute("VACUUM (ANALYZE) episodes, messages, term_counts, conversations, users", timeout=900)
            return float(await admin.fetchval("SELECT pg_database_size('rapport') / 1048576.0"))
        finally:
            await admin.close()

    async def messages(self) -> int:
        admin = await self.admin()
        try:
            return int(await admin.fetchval("SELECT count(*) FROM messages", timeout=300))
        finally:
            await admin.close()


async def _copying(admin: "asyncpg.Connection[asyncpg.Record]", table: str) -> str:
    """Copy one user's rows of a table for others; the ids in them may stay, since every key begins with the user's."""
    rows = await admin.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped AND attgenerated = ''",
        table,
    )
    own = {"user_id": "u.id", "subject": "u.id::text"} if table == "users" else {"user_id": "u.id"}
    names = [row["attname"] for row in rows]
    values = ", ".join(own.get(name, f't."{name}"') for name in names)
    columns = ", ".join(f'"{name}"' for name in names)
    return f"INSERT INTO {table} ({columns}) SELECT {values} FROM {table} t, unnest($2::uuid[]) AS u(id) WHERE t.user_id = $1"


def ask(topology: Topology, persons: Sequence[Person], seconds: float) -> dict[str, Any]:
    """Real turns of these users, as fast as they come when there is one, a little apart when there are more."""
    think = (0.02, 0.05) if len(persons) == 1 else (0.5, 1.5)
    wish = Wish(users=len(persons), seconds=seconds, warm=seconds / 4, think=think, ramp=0.5, breaks=0)
    row = figures(run(topology, wish, persons))
    kept = ("turns", "success", "wrong_tokens", "added_first", "first_token", "mean_ms", "elsewhere_percent")
    return {name: row[name] for name in kept}


def opened(topology: Topology) -> Database:
    settings = Settings.model_validate(topology.environment({}))
    return open_database(settings, PoolConfig(topology.postgres.dsn, 4, 4, command_timeout=900))


async def _prepare(topology: Topology, persons: Sequence[Person], histories: Histories) -> Store:
    await settle(topology, persons)
    return Store(topology, opened(topology), histories)


async def _grown(store: Store, person: Person, have: int, want: int) -> dict[str, Any]:
    began = time.monotonic()
    await store.grow(person, have, want)
    filled = time.monotonic() - began
    began = time.monotonic()
    indexed = await index_many(store.database)
    indexing = time.monotonic() - began
    size = await store.settle_down()
    await store.database.close()
    return {"messages": want, "fill_s": filled, "index_s": indexing if indexed else 0.0, "size_mb": size}


def grow_history(sizes: Sequence[int], seconds: float, histories: Histories) -> list[dict[str, Any]]:
    """One user's history, longer and longer."""
    rows, have = [], 0
    with running(instances=1, mock=QUICK, worker=False, environment=NO_LIMITS) as topology:
        person = people(1, prefix="growth")[0]
        store = asyncio.run(_prepare(topology, [person], histories))
        empty = asyncio.run(_empty(store))
        for size in sizes:
            # its pool belongs to the event loop that asked it first
            store = Store(topology, opened(topology), histories)
            row = asyncio.run(_grown(store, person, have, size))
            row |= ask(topology, [person], seconds)
            row["kb_per_message"] = (row["size_mb"] - empty) * 1024 / size
            rows.append(row)
            _tell(f"{size:>9,} messages", row)
            have = size
    return rows


async def _empty(store: Store) -> float:
    size = await store.settle_down()
    await store.database.close()
    return size


def grow_users(counts: Sequence[int], each: int, seconds: float, histories: Histories) -> list[dict[str, Any]]:
    """More and more users, each with a history of `each` messages; ten of them talk."""
    rows, have = [], ASKED
    with running(instances=1, mock=QUICK, worker=False, environment=NO_LIMITS) as topology:
        persons = people(ASKED, prefix="growth")
        store = asyncio.run(_prepare(topology, persons, histories))
        empty = asyncio.run(_first_users(store, persons, each))
        for count in counts:
            began = time.monotonic()
            store = Store(topology, opened(topology), histories)
            size, messages = asyncio.run(_more_users(store, persons[0].user_id, count - have))
            have = max(have, count)
            row: dict[str, Any] = {
                "users": count,
                "messages": messages,
                "fill_s": time.monotonic() - began,
                "size_mb": size,
            }
            row |= ask(topology, persons, seconds)
            row["kb_per_message"] = (size - empty) * 1024 / messages
            rows.append(row)
            _tell(f"{count:>9,} users", row)
    return rows


async def _first_users(store: Store, persons: Sequence[Person], each: int) -> float:
    empty = await store.settle_down()
    for person in persons:
        await store.grow(person, 0, each)
    await store.database.close()
    return empty


async def _more_users(store: Store, like: UUID, more: int) -> tuple[float, int]:
    if more > 0:
        await store.copy(like, more)
    found = await store.settle_down(), await store.messages()
    await store.database.close()
    return found


def _tell(what: str, row: dict[str, Any]) -> None:
    print(
        f"{what}: added p50 {ms(row['added_first']['p50'])} p95 {ms(row['added_first']['p95'])} ms, recall {ms(row['mean_ms']['recall'])} ms, "
        f"{row['kb_per_message']:.2f} kB a message, filled in {row['fill_s']:.0f} s, others on the machine {row['elsewhere_percent']:.0f} %",
        flush=True,
    )


def report_of(history: Sequence[dict[str, Any]], users: Sequence[dict[str, Any]], each: int) -> Report:
    report = Report("Cost of a turn as things grow")
    report.say(
        "One instance behind nginx; a model with its first token after 50 ms. Added is the time to the first token beyond the model's own. "
        "Recall is the statement's mean as the service counts it, the embedding is apart. Storage is the database's size beyond an empty one, "
        "indexes included, divided by its messages; facts, which a model would have extracted, are not in it."
    )
    for name, rows, title in (
        ("messages", history, "messages of one user"),
        ("users", users, f"users of {each} messages each"),
    ):
        if not rows:
            continue
        report.head(title.capitalize())
        report.table(
            [name, "turns", "added p50 / p95 / p99", "recall, mean", "embedding, mean", "kB a message", "database, MB", "filled, s", "indexed, s", "others %"],
            [
                [
                    f"{row[name]:,}", f"{row['turns']}",
                    " / ".join(ms(row["added_first"][p]) for p in ("p50", "p95", "p99")),
                    ms(row["mean_ms"]["recall"]), ms(row["mean_ms"]["embedding"]), f"{row['kb_per_message']:.2f}",
                    f"{row['size_mb']:,.0f}", f"{row['fill_s']:.0f}", f"{row.get('index_s', 0):.0f}", f"{row['elsewhere_percent']:.0f}",
                ]
                for row in rows
            ],
        )  # fmt: skip
        times = [
            Line("added p50", [(row[name], row["added_first"]["p50"]) for row in rows]),
            Line("added p95", [(row[name], row["added_first"]["p95"]) for row in rows]),
            Line("recall, mean", [(row[name], row["mean_ms"]["recall"]) for row in rows]),
        ]
        report.chart(f"growth-{name}-time", Chart(f"A turn's cost by {title}", title, "ms", times, log_x=True))
        stored = [Line("kB a message", [(row[name], row["kb_per_message"]) for row in rows])]
        report.chart(f"growth-{name}-storage", Chart(f"Storage by {title}", title, "kB", stored, log_x=True))
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m loadtests.growth", description=__doc__)
    parser.add_argument(
        "--messages", default="100,300,1000,3000,10000,30000,100000", help="of one user; empty: not measured"
    )
    parser.add_argument("--users", default="10,100,1000,10000,100000", help="empty: not measured")
    parser.add_argument("--each", type=int, default=10, help="messages of each of the users")
    parser.add_argument("--seconds", type=float, default=16.0, help="of turns at each size")
    parser.add_argument("--out", type=Path, default=None)
    wish = parser.parse_args(arguments)
    histories = asyncio.run(Histories.make())
    sizes, counts = ([int(part) for part in text.split(",") if part] for text in (wish.messages, wish.users))
    history = grow_history(sizes, wish.seconds, histories) if sizes else []
    users = grow_users(counts, wish.each, wish.seconds, histories) if counts else []
    folder = wish.out or new_folder("growth")
    path = report_of(history, users, wish.each).write(folder, {"history": history, "users": users})
    print(f"\n{path.read_text()}\nWritten to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
