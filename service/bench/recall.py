"""`rapport bench recall`: public conversations through this service's own import and search, scored by their evidence.

Every conversation becomes a user of one shared store, so that a leak between users would be seen. The first speaker is
the user, the second the companion. When a question was asked is unknown; it is asked right after the last message.
"""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from rich.console import Console
from rich.progress import track

from memory.embedders import MiniLmEmbedder
from memory.ports import Embedder
from memory.postgres import Database, PoolConfig
from memory.retrieval import RecalledItem, RecallQuery, recall
from memory.transcript import Owner
from service.bench import metrics
from service.bench.kept_vectors import KeptVectors
from service.bench.scratch import scratch_database
from service.imports.neutral import neutral_lines
from service.imports.service import ImportOptions, import_conversation
from service.principal import derive_user_id

ISSUER = "rapport-bench"
DEPTH = 100
"""Items asked for: more than any prompt takes, for the curves at 50."""
TOKENS = 100_000
COLUMNS = (
    *("R@5", "R@10", "R@20", "R@50", "hit@10", "all@10", "mrr", "R@t500", "R@t1000", "R@t2000", "ans@t1000"),
    *("date@t1000", "new@10", "stale_only@10", "new_first"),
)


@dataclass(frozen=True, slots=True)
class Imported:
    """A conversation in the store."""

    data: Mapping[str, Any]
    user_id: UUID
    turns: Mapping[UUID, str]
    """The turn of the corpus that each message was."""
    last_said: datetime


async def import_all(
    database: Database, embedder: Embedder, path: Path, conversations: Sequence[Mapping[str, Any]]
) -> list[Imported]:
    done = []
    for data in track(conversations, "Importing", console=Console(stderr=True), transient=True):
        subject = f"{path.stem}/{data['id']}"
        owner = Owner(derive_user_id(ISSUER, subject), ISSUER, subject)
        await import_conversation(
            database, embedder, owner, _source(path, str(data["id"])), ImportOptions(format="rapport")
        )
        async with database.as_user(owner.user_id) as connection:
            rows = await connection.fetch(
                "SELECT id, external_id, created_at FROM messages WHERE user_id = $1", owner.user_id
            )
        turns = {row["id"]: row["external_id"] for row in rows}
        done.append(Imported(data, owner.user_id, turns, max(row["created_at"] for row in rows)))
    return done


async def _source(path: Path, conversation: str) -> AsyncIterator[bytes]:
    for line in neutral_lines(path, conversation):
        yield line


async def ask(
    database: Database, embedder: Embedder, imported: Imported, question: str
) -> tuple[list[RecalledItem], float]:
    """What recall gives, and the milliseconds that it took, embedding apart."""
    vector = (await embedder.embed([question], question=True))[0]
    query = RecallQuery(
        user_id=imported.user_id,
        text=question,
        vector=vector,
        routes=("general",),
        token_budget=TOKENS,
        limit=DEPTH,
        now=imported.last_said,
        names=tuple(imported.data["speakers"]),
    )
    began = time.perf_counter()
    async with database.as_user(imported.user_id) as connection:
        items = await recall(connection, query)
    return items, (time.perf_counter() - began) * 1000


async def measure(
    dsn: str, embedder: Embedder, path: Path, conversations: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, metrics.Scores], list[float]]:
    """Averages by category, and the milliseconds of each question."""
    database = Database(PoolConfig(dsn, size=2, overflow=2))
    try:
        imported = await import_all(database, embedder, path, conversations)
        whose = {message: (str(one.data["id"]), turn) for one in imported for message, turn in one.turns.items()}
        rows, times = [], []
        for one in track(imported, "Asking", console=Console(stderr=True), transient=True):
            turns = {turn["id"]: turn for turn in one.data["turns"]}
            conversation = metrics.Conversation(str(one.data["id"]), turns)
            for question in one.data["questions"]:
                if not question["evidence"]:
                    continue
                items, taken = await ask(database, embedder, one, question["question"])
                found = [metrics.Item((whose[item.message_id],), item.text) for item in items]
                rows.append((question["category"], metrics.score(conversation, question, found)))
                times.append(taken)
    finally:
        await database.close()
    return metrics.averages(rows), times


def table(result: Mapping[str, metrics.Scores], times: Sequence[float]) -> str:
    """The averages as a Markdown table, in hundredths."""
    columns = [column for column in COLUMNS if any(column in scores for scores in result.values())]
    lines = ["| category | n | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 2)]
    for name, scores in result.items():
        cells = [f"{100 * scores[column]:.1f}" if column in scores else "" for column in columns]
        lines.append(f"| {name} | {scores['n']:.0f} | " + " | ".join(cells) + " |")
    ordered = sorted(times)
    leaks = sum(scores["leaks"] for name, scores in result.items() if name != "overall")
    middle, late = ordered[len(ordered) // 2], ordered[int(0.95 * len(ordered))]
    note = f"leaks {leaks:.0f}; recall, embedding apart: p50 {middle:.1f} ms, p95 {late:.1f} ms"
    return "\n".join([*lines, "", note])


def run(path: Path, vectors: Path) -> tuple[dict[str, metrics.Scores], list[float]]:
    conversations = path.read_bytes()

    async def measured(dsn: str) -> tuple[dict[str, metrics.Scores], list[float]]:
        embedder = KeptVectors(MiniLmEmbedder(), vectors)
        try:
            return await measure(dsn, embedder, path, json.loads(conversations))
        finally:
            await embedder.aclose()

    with scratch_database() as dsn:
        return asyncio.run(measured(dsn))


def main(path: Path, home: Path, *, as_json: bool) -> int:
    """Measure and print; `home` keeps the vectors for the next time."""
    result, times = run(path, home / "bench" / f"{path.stem}.npz")
    sys.stdout.write((json.dumps(result) if as_json else table(result, times)) + "\n")
    return 0
