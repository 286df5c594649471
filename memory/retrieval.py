"""Recall: what a user's memories say about a question, in one statement after one embedding.

The statement scores every memory of the user on the routes that the caller names, by meaning (cosine) and by words
(BM25 with the IDF of this user's own memories), adds the scores of the messages before and after, and gives the most
promising ones to `ranking`. Scores of one user never depend on another's rows.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from uuid import UUID

import asyncpg
import numpy as np

from memory import associations, budget, excerpts, lexical, ranking, recency, temporal
from memory.indexing import EpisodeRow, embedding_text, index_messages, sparse, term_weights
from memory.ports import Vectors
from memory.postgres import Connection
from memory.statements import RECALL

__all__ = [
    "EpisodeRow",
    "RecallQuery",
    "RecalledItem",
    "Vector",
    "embedding_text",
    "index_messages",
    "recall",
    "sparse",
    "term_weights",
]

Vector = Vectors

LEAST_ALIKE = 0.2
"""Cosine under which a memory that shares no word with the question is about something else (docs/recall.md)."""
SIGNALS = len(fields(ranking.Candidate))
"""Columns of the statement that make a candidate."""


@dataclass(frozen=True, slots=True)
class RecallQuery:
    user_id: UUID
    text: str
    vector: Vector | None
    routes: tuple[str, ...]
    token_budget: int
    limit: int
    now: datetime
    time_zone: str = "UTC"
    exclude_conversation_after: tuple[UUID, int] | None = None
    """Messages of this conversation with a higher seq are in the prompt already."""
    names: tuple[str, ...] = ()
    """Speakers' names, so that "what did Melanie say" looks at what Melanie said."""
    language: str = "en"


@dataclass(frozen=True, slots=True)
class RecalledItem:
    id: UUID
    layer: str
    text: str
    """As it goes into the prompt: day, speaker, words; relative dates resolved, what is long cut to what matters."""
    score: float
    why: tuple[str, ...]
    said_at: datetime
    speaker: str | None
    role: str
    conversation_id: UUID
    message_id: UUID
    seq: int


async def recall(connection: Connection, query: RecallQuery) -> list[RecalledItem]:
    """What is worth putting into the prompt, best first; nothing when nothing is good enough."""
    counted = lexical.terms(query.text, query.language)
    asked = {term: lexical.term_id(term, query.user_id) for term in counted}
    conversation_id, seq = query.exclude_conversation_after or (None, None)
    rows = await connection.fetch(
        RECALL,
        query.user_id,
        list(query.routes),
        None if query.vector is None else query.vector.tolist(),
        list(asked.values()),
        conversation_id,
        seq,
    )
    asked_row = next(row for row in rows if row["layer"] == "asked")
    rows = [row for row in rows if row is not asked_row]
    if asked_row["lexical_best"] <= 0 and asked_row["dense_best"] < LEAST_ALIKE:
        return []
    telling = dict(zip(asked, asked_row["idfs"], strict=True))
    question = _question(query, telling)
    found = _ranked(rows, query, question)
    distinct = budget.distinct(found, lambda scored: scored[1]["text"])
    cutter = excerpts.Cutter(telling, asks_when=question.asks_when)
    # rendered one by one, as long as there is room
    items = (_item(score, row, query, cutter) for score, row in distinct)
    return budget.within(items, lambda item: item.text, token_budget=query.token_budget, limit=query.limit)


Scored = tuple[float, asyncpg.Record]


def _ranked(rows: Sequence[asyncpg.Record], query: RecallQuery, question: ranking.Question) -> list[Scored]:
    by_id = {row["id"]: row for row in rows}
    table = associations.table()
    ranked = ranking.rank([ranking.Candidate(*row[:SIGNALS]) for row in rows], question, table)
    return [(score, by_id[found.id]) for score, found in recency.newest_first(ranked, query.text, question, table)]


def _question(query: RecallQuery, idfs: dict[str, float]) -> ranking.Question:
    names = {word for name in query.names for word in name.lower().split()}
    table = associations.table()
    known: dict[int, float] = {}
    for word in re.findall(r"[a-z0-9]+", query.text.lower()):
        idf = idfs.get(lexical.stem(word, query.language))
        if idf is not None and word not in names and (number := table.number(word)) is not None:
            known[number] = idf
    return ranking.read_question(
        query.text,
        query.names,
        temporal.asked_about(query.text, query.now, query.time_zone),
        np.array(list(known), np.uint16),
        np.array(list(known.values()), np.float32),
    )


def _item(score: float, row: asyncpg.Record, query: RecallQuery, cutter: excerpts.Cutter) -> RecalledItem:
    day = temporal.local_day(row["said_at"], query.time_zone)
    why = [name for name, holds in (("dense", row["dense"] >= LEAST_ALIKE), ("lexical", row["words"] > 0)) if holds]
    text = cutter.cut(row["text"])
    speaker = "" if row["layer"] == "fact" else f"{row['speaker'] or row['role']}: "
    return RecalledItem(
        id=row["id"],
        layer=row["layer"],
        text=f"[{day.isoformat()}] {speaker}{text}",
        score=score,
        why=tuple(why) or ("neighbour",),
        said_at=row["said_at"],
        speaker=row["speaker"],
        role=row["role"],
        conversation_id=row["conversation_id"],
        message_id=row["message_id"] or row["id"],
        seq=row["seq"],
    )
