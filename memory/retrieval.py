"""Recall: what a user's memories say about a question, in two short statements after one embedding.

The first scores every memory of the user on the routes that the caller names, by meaning (cosine) and by words (BM25
with the IDF of this user's own memories). `scores` adds the messages before and after and chooses the most promising
ones, the second statement fetches what they say, `ranking` puts them in order. Only what is shown is opened. Scores of
one user never depend on another's rows.
"""

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import numpy as np
import orjson

from memory import associations, budget, candidates, excerpts, lexical, questions, ranking, recency, scores, temporal
from memory.indexing import EpisodeRow, embedding_text, index_messages, sparse, term_weights
from memory.models import model_of
from memory.ports import Vectors
from memory.postgres import Connection
from memory.statements import DETAILS, FEW, NARROW, POOL, SCALE, SMALL_POOL, read_all, read_many
from memory.vault import index_key, ring_of

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
ID_BYTES = 16
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

LEAST_ALIKE = 0.2
"""Cosine under which a memory that shares no word with the question is about something else (docs/recall.md)."""
REMEMBERED = 10_000
"""Users with many memories that this process keeps in mind, to ask the right statement at once."""


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
    counted = lexical.asked(query.text, query.language)
    key = await index_key(connection, query.user_id)
    asked = {term: lexical.term_id(term, key) for term in counted}
    row = await _scores(connection, query, list(asked.values()))
    scale, messages, facts = scores.choose(
        row, query.exclude_conversation_after, POOL if query.limit > FEW else SMALL_POOL
    )
    if scale.lexical_best <= 0 and scale.dense_best < LEAST_ALIKE:
        return []
    details = await connection.fetchrow(DETAILS, query.user_id, _id_list(messages.ids), _id_list(facts.ids))
    assert details is not None  # noqa: S101  aggregates always give a row
    found = candidates.gather(details, messages, facts, ring_of(connection))
    telling = dict(zip(asked, row["idfs"], strict=True))
    question = _question(query, telling)
    table = associations.table()
    order, worth = ranking.rank(found.columns, question, table)
    order = recency.newest_first(order, found.columns, query.text, question, table)
    # opened and rendered one by one, as long as there is room
    distinct = budget.distinct(order, found.text)
    cutter = excerpts.Cutter(telling, asks_when=question.asks_when)
    items = (_item(found, place, float(worth[place]), query, cutter, rank) for rank, place in enumerate(distinct))
    return budget.within(items, lambda item: item.text, token_budget=query.token_budget, limit=query.limit)


_with_many: set[UUID] = set()
"""Users who had many memories when they were last asked; a wrong guess costs a second statement."""
_slots: dict[str | None, int] = {}
"""The place of each model's vectors, as it was last seen."""


async def _scores(connection: Connection, query: RecallQuery, terms: list[int]) -> asyncpg.Record:
    arguments = (query.user_id, list(query.routes), *question_vector(query.vector), terms)
    model = arguments[3]
    while True:
        many, slot = query.user_id in _with_many, _slots.get(model, 1)
        row = await connection.fetchrow(statement(query.vector, slot, many=many), *arguments)
        assert row is not None  # noqa: S101  aggregates always give a row
        if row["many"] == many and row["slot"] in (slot, None):
            return row
        if len(_with_many) >= REMEMBERED:
            _with_many.clear()
        (_with_many.add if row["many"] else _with_many.discard)(query.user_id)
        _slots[model] = row["slot"] or slot


def statement(vector: Vector | None, slot: int, *, many: bool) -> str:
    """The statement for a user with or without many memories, whose vectors are in the place `slot`."""
    return read_many(slot, narrow=vector is None or len(vector) <= NARROW) if many else read_all(slot)


def question_vector(vector: Vector | None) -> tuple[str | None, str | None]:
    """The vector as the statements take it, and its model."""
    if vector is None:
        return None, None
    whole = np.rint(np.asarray(vector) * np.float32(SCALE)).astype(np.int32)
    return orjson.dumps(whole, option=orjson.OPT_SERIALIZE_NUMPY).decode(), model_of(vector)


def _id_list(ids: list[bytes]) -> str:
    """A literal of ids: objects of them, made and sent, would cost more than finding their rows."""
    return "{" + b"".join(ids).hex(",", ID_BYTES) + "}"


def _question(query: RecallQuery, idfs: dict[str, float]) -> questions.Question:
    names = {word for name in query.names for word in name.lower().split()}
    table = associations.table()
    known: dict[int, float] = {}
    for word in re.findall(r"[a-z0-9]+", query.text.lower()):
        idf = idfs.get(lexical.stem(word, query.language))
        if idf is not None and word not in names and (number := table.number(word)) is not None:
            known[number] = idf
    return questions.read_question(
        query.text,
        query.names,
        temporal.asked_about(query.text, query.now, query.time_zone),
        np.array(list(known), np.uint16),
        np.array(list(known.values()), np.float32),
    )


def _item(
    found: candidates.Found, place: int, score: float, query: RecallQuery, cutter: excerpts.Cutter, rank: int
) -> RecalledItem:
    columns = found.columns
    said_at = EPOCH + timedelta(microseconds=int(columns.said_at[place]))
    day = temporal.local_day(said_at, query.time_zone)
    holding = (("dense", found.dense[place] >= LEAST_ALIKE), ("lexical", columns.words[place] > 0))
    why = tuple(name for name, holds in holding if holds)
    fact, role, speaker = bool(columns.facts[place]), columns.roles[place], columns.speakers[place]
    told_by = "" if fact else f"{speaker or role}: "
    return RecalledItem(
        id=found.id(place),
        layer="fact" if fact else "episode",
        text=f"[{day.isoformat()}] {told_by}{cutter.cut(found.text(place), longest=excerpts.room(rank))}",
        score=score,
        why=why or ("neighbour",),
        said_at=said_at,
        speaker=speaker,
        role=role,
        conversation_id=found.conversation_id(place),
        message_id=found.message_id(place),
        seq=int(columns.seqs[place]),
    )
