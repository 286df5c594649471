"""Recall: what a user's memories say about a question, in one statement after one embedding.

The statement scores every memory of the user on the routes that the caller names, by meaning (cosine) and by words
(BM25 with the IDF of this user's own memories), adds the scores of the messages before and after, and gives the most
promising ones to `ranking`. Scores of one user never depend on another's rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import numpy as np
import numpy.typing as npt

from memory import budget, lexical, ranking, temporal
from memory.postgres import Connection

Vector = npt.NDArray[np.float32]

POOL = 200
"""Messages that the statement hands over to be ranked."""
REACH = 10
"""Messages before and after whose best score lifts a message: about one sitting."""
INDEXED_CHARACTERS = 32_000
"""Of a longer message only the head is searchable."""
INDEXED_TERMS = 600
"""Different terms kept of one message, the most frequent ones: a row must fit in a page of the table."""


@dataclass(frozen=True, slots=True)
class EpisodeRow:
    """A message as recall wants it."""

    conversation_id: UUID
    seq: int
    message_id: UUID
    role: str
    speaker: str | None
    text: str
    said_at: datetime
    route: str
    vector: Vector | None = None
    """Of `embedding_text`; a message without one is found by its words until it is indexed again with one."""


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
    """As it goes into the prompt: day, speaker, words; relative dates resolved."""
    score: float
    why: tuple[str, ...]
    said_at: datetime
    speaker: str | None
    role: str
    conversation_id: UUID
    message_id: UUID
    seq: int


def embedding_text(speaker: str | None, role: str, text: str) -> str:
    """What is embedded of a message. Who speaks is the most telling part of it (docs/recall.md)."""
    return f"{speaker or role}: {text}"


def sparse(weighted: dict[int, float]) -> str:
    """The literal of a pgvector sparsevec."""
    return (
        "{"
        + ",".join(f"{term}:{weight:.4g}" for term, weight in sorted(weighted.items()))
        + f"}}/{lexical.TERM_SPACE + 1}"
    )


def term_weights(user_id: UUID, text: str, language: str = "en") -> dict[int, float]:
    """Keyed term ids of a text with what each is worth to BM25 before its IDF."""
    counted = lexical.terms(text[:INDEXED_CHARACTERS], language)
    weighted = lexical.weights(counted)
    return {lexical.term_id(term, user_id): weighted[term] for term, _ in counted.most_common(INDEXED_TERMS)}


INDEX = """
WITH new AS (
    SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
        $9::text[], $10::smallint[], $11::text[], $12::text[], $13::text[])
    AS v(message_id, conversation_id, seq, role, speaker, route, said_at, text, traits, terms, lexical, embedding)
), known AS (
    SELECT message_id FROM episodes WHERE user_id = $1 AND message_id = ANY ($2::uuid[])
), written AS (
INSERT INTO episodes
    (user_id, message_id, conversation_id, seq, role, speaker, route, said_at, text, traits, terms, lexical, embedding)
SELECT $1, message_id, conversation_id, seq, role, speaker, route, said_at, text, traits, terms::int[],
    lexical::sparsevec, embedding::halfvec
FROM new ORDER BY seq
ON CONFLICT (user_id, message_id) DO UPDATE SET embedding = excluded.embedding
    WHERE episodes.embedding IS NULL AND excluded.embedding IS NOT NULL
RETURNING message_id
)
SELECT count(*) FROM written WHERE message_id NOT IN (SELECT message_id FROM known)
"""


async def index_messages(
    connection: Connection, user_id: UUID, rows: Sequence[EpisodeRow], *, time_zone: str = "UTC", language: str = "en"
) -> int:
    """Make messages recallable; gives how many are new.

    Idempotent: what is there stays, except that a missing vector is filled in. Relative dates are resolved here, by the
    day on which the message was said where the user lives.
    """
    if not rows:
        return 0
    texts = [temporal.annotate(row.text, row.said_at, time_zone) for row in rows]
    weighted = [
        term_weights(user_id, f"{row.speaker or ''} {text}", language) for row, text in zip(rows, texts, strict=True)
    ]
    before = {(row.conversation_id, row.seq): "?" in row.text for row in rows}
    flags = [
        int(ranking.traits(row.text))
        | (int(ranking.Trait.ANSWERS) if before.get((row.conversation_id, row.seq - 1), False) else 0)
        for row in rows
    ]
    fresh = await connection.fetchval(
        INDEX,
        user_id,
        [row.message_id for row in rows],
        [row.conversation_id for row in rows],
        [row.seq for row in rows],
        [row.role for row in rows],
        [row.speaker for row in rows],
        [row.route for row in rows],
        [row.said_at for row in rows],
        [text.replace("\x00", "") for text in texts],
        flags,
        ["{" + ",".join(map(str, sorted(terms))) + "}" for terms in weighted],
        [sparse(terms) for terms in weighted],
        [None if row.vector is None else _dense(row.vector) for row in rows],
    )
    return int(fresh)


def _dense(vector: Vector) -> str:
    return "[" + ",".join(f"{x:.5f}" for x in vector.tolist()) + "]"


RECALL = f"""
WITH asked AS MATERIALIZED (
    SELECT asked.term, ln(1 + greatest(total.episodes - coalesce(known.episodes, 0) + 0.5, 0.5)
        / (coalesce(known.episodes, 0) + 0.5)) AS idf
    FROM unnest($4::int[]) AS asked(term)
    CROSS JOIN (SELECT coalesce(sum(episodes), 0) AS episodes FROM term_counts WHERE user_id = $1 AND term = 0) AS total
    LEFT JOIN term_counts AS known ON known.user_id = $1 AND known.term = asked.term
), question AS MATERIALIZED (
    SELECT $3::real[]::halfvec(384) AS dense,
        ('{{' || coalesce(string_agg(term || ':' || idf::real, ',' ORDER BY term), '')
            || '}}/{lexical.TERM_SPACE + 1}')::sparsevec AS words
    FROM asked
), scored AS MATERIALIZED (
    SELECT e.message_id, e.conversation_id, e.seq, e.role, e.speaker, e.said_at, e.text, e.traits,
        -(e.lexical <#> question.words) AS lexical, coalesce(1 - (e.embedding <=> question.dense), 0) AS dense
    FROM episodes AS e, question WHERE e.user_id = $1 AND e.route = ANY ($2::text[])
), scale AS MATERIALIZED (
    SELECT max(lexical) AS lexical_best, max(dense) AS dense_best,
        coalesce(min(dense) FILTER (WHERE dense <> 0), 0) AS dense_worst
    FROM scored
), fused AS (
    SELECT scored.*, lexical / greatest(lexical_best, 1e-6)
        + greatest(dense - dense_worst, 0) / greatest(dense_best - dense_worst, 1e-6) AS own
    FROM scored, scale
), placed AS (
    SELECT *, lag(lexical, 1, 0) OVER said AS l1, lead(lexical, 1, 0) OVER said AS r1,
        lag(lexical, 2, 0) OVER said AS l2, lead(lexical, 2, 0) OVER said AS r2,
        lag(dense, 1, 0) OVER said AS dl1, lead(dense, 1, 0) OVER said AS dr1,
        lag(dense, 2, 0) OVER said AS dl2, lead(dense, 2, 0) OVER said AS dr2,
        max(own) OVER (said ROWS BETWEEN {REACH} PRECEDING AND {REACH} FOLLOWING) AS around
    FROM fused WINDOW said AS (PARTITION BY conversation_id ORDER BY seq)
)
SELECT message_id, conversation_id, seq, role, speaker, said_at, text, traits, lexical, dense,
    l1, r1, l2, r2, dl1, dr1, dl2, dr2, around, scale.*
FROM placed, scale
WHERE $5::uuid IS NULL OR conversation_id <> $5 OR seq <= $6
ORDER BY own + 0.6 * around DESC, seq LIMIT {POOL}
"""


async def recall(connection: Connection, query: RecallQuery) -> list[RecalledItem]:
    """What is worth putting into the prompt, best first; nothing when nothing is good enough."""
    asked = sorted({lexical.term_id(term, query.user_id) for term in lexical.terms(query.text, query.language)})
    conversation_id, seq = query.exclude_conversation_after or (None, None)
    rows = await connection.fetch(
        RECALL,
        query.user_id,
        list(query.routes),
        None if query.vector is None else query.vector.tolist(),
        asked,
        conversation_id,
        seq,
    )
    if not rows:
        return []
    scale = ranking.Scale(rows[0]["lexical_best"], rows[0]["dense_best"], rows[0]["dense_worst"])
    if scale.lexical_best <= 0 and scale.dense_best < LEAST_ALIKE:
        return []
    candidates = [ranking.Candidate(*tuple(row)[:-3]) for row in rows]
    days = temporal.asked_about(query.text, query.now, query.time_zone)
    question = ranking.read_question(query.text, query.names, days)
    ranked = ranking.rank(candidates, scale, question)
    items = [_item(score, candidate, query.time_zone) for score, candidate in ranked]
    chosen = budget.distinct(items, lambda item: item.text)
    return budget.within(chosen, lambda item: item.text, token_budget=query.token_budget, limit=query.limit)


LEAST_ALIKE = 0.2
"""Cosine under which a memory that shares no word with the question is about something else (docs/recall.md)."""


def _item(score: float, candidate: ranking.Candidate, time_zone: str) -> RecalledItem:
    day = temporal.local_day(candidate.said_at, time_zone)
    why = []
    if candidate.dense >= LEAST_ALIKE:
        why.append("dense")
    if candidate.lexical > 0:
        why.append("lexical")
    return RecalledItem(
        id=candidate.message_id,
        layer="episode",
        text=f"[{day.isoformat()}] {candidate.speaker or candidate.role}: {candidate.text}",
        score=score,
        why=tuple(why) or ("neighbour",),
        said_at=candidate.said_at,
        speaker=candidate.speaker,
        role=candidate.role,
        conversation_id=candidate.conversation_id,
        message_id=candidate.message_id,
        seq=candidate.seq,
    )
