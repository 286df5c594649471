"""Two embedding models asked the same real questions, before the one takes over from the other."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from uuid import UUID

from memory.ports import Embedder
from memory.postgres import Database
from memory.retrieval import RecallQuery, recall

DEPTH = 10

# what users said, as if they said it now: recall sees what stood before it
SAMPLE = """
SELECT user_id, conversation_id, seq FROM messages WHERE role = 'user' AND seq > 1 ORDER BY random() LIMIT $1
"""
READ = """
SELECT m.content, m.created_at, c.route, c.time_zone FROM messages m
JOIN conversations c ON c.user_id = m.user_id AND c.id = m.conversation_id
WHERE m.user_id = $1 AND m.conversation_id = $2 AND m.seq = $3 AND c.deleted_at IS NULL
"""


@dataclass(slots=True)
class Side:
    """How one model did; milliseconds of each question."""

    name: str
    embedding: list[float] = field(default_factory=list)
    recall: list[float] = field(default_factory=list)


@dataclass(slots=True)
class Comparison:
    old: Side
    new: Side
    overlaps: list[float] = field(default_factory=list)
    """Share of the first ten that both models bring."""

    @property
    def overlap(self) -> float | None:
        return sum(self.overlaps) / len(self.overlaps) if self.overlaps else None


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(share * len(ordered)), len(ordered) - 1)] if ordered else 0.0


async def compare(database: Database, old: Embedder, new: Embedder, questions: int) -> Comparison:
    """Ask what users really said of their own memories, with either model's vectors."""
    done = Comparison(Side(old.name), Side(new.name))
    async with database.system() as connection:
        sample = await connection.fetch(SAMPLE, questions)
    for row in sample:
        found = []
        for embedder, side in ((old, done.old), (new, done.new)):
            found.append(await _ask(database, embedder, side, (row["user_id"], row["conversation_id"], row["seq"])))
        if None not in found and any(found):
            first, second = (set(items or ()) for items in found)
            done.overlaps.append(len(first & second) / max(len(first), len(second)))
    return done


async def _ask(database: Database, embedder: Embedder, side: Side, said: tuple[UUID, UUID, int]) -> list[UUID] | None:
    user_id, conversation_id, seq = said
    async with database.as_user(user_id) as connection:
        row = await connection.fetchrow(READ, *said)
    if row is None or not row["content"].strip():
        return None
    began = time.perf_counter()
    (vector,) = await embedder.embed([row["content"]], question=True)
    side.embedding.append((time.perf_counter() - began) * 1000)
    query = RecallQuery(
        user_id=user_id,
        text=row["content"],
        vector=vector,
        routes=("general",) if row["route"] == "general" else ("general", row["route"]),
        token_budget=100_000,
        limit=DEPTH,
        now=datetime.now(UTC),
        time_zone=row["time_zone"],
        exclude_conversation_after=(conversation_id, seq - 1),
    )
    began = time.perf_counter()
    async with database.as_user(user_id) as connection:
        items = await recall(connection, query)
    side.recall.append((time.perf_counter() - began) * 1000)
    return [item.id for item in items]
