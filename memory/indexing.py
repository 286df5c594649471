"""Messages made recallable: terms, vector, associations and traits, written beside each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory import associations, lexical, temporal, traits
from memory.models import model_of
from memory.ports import Vectors
from memory.postgres import Connection
from memory.vault import index_key, sealed, sealed_bytes

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
    vector: Vectors | None = None
    """Of `embedding_text`; a message without one is found by its words until it is indexed again with one."""


def embedding_text(speaker: str | None, role: str, text: str) -> str:
    """What is embedded of a message. Who speaks is the most telling part of it (docs/recall.md)."""
    return f"{speaker or role}: {text}"


def sparse(weighted: dict[int, float]) -> str:
    """The literal of a pgvector sparsevec."""
    entries = ",".join(f"{term}:{weight:.4g}" for term, weight in sorted(weighted.items()))
    return f"{{{entries}}}/{lexical.TERM_SPACE + 1}"


def term_weights(key: bytes, text: str, language: str = "en") -> dict[int, float]:
    """Keyed term ids of a text with what each is worth to BM25 before its IDF."""
    counted = lexical.indexed(text[:INDEXED_CHARACTERS], language)
    weighted = lexical.weights(counted)
    return {lexical.term_id(term, key): weighted[term] for term, _ in counted.most_common(INDEXED_TERMS)}


INDEX = """
WITH new AS (
    SELECT * FROM unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::timestamptz[],
        $9::text[], $10::smallint[], $11::text[], $12::text[], $13::text[], $14::bytea[])
    AS v(message_id, conversation_id, seq, role, speaker, route, said_at, text, traits, terms, lexical, embedding,
        known_words)
), known AS (
    SELECT message_id FROM episodes WHERE user_id = $1 AND message_id = ANY ($2::uuid[])
), written AS (
    INSERT INTO episodes (user_id, message_id, conversation_id, seq, role, speaker, route, said_at, text, traits,
        terms, lexical, embedding, embedding_b, known_words, many)
    SELECT $1, message_id, conversation_id, seq, role, speaker, route, said_at, text, traits,
        terms::int[], lexical::sparsevec, vector_for(embedding, 1), vector_for(embedding, 2), known_words,
        EXISTS (SELECT FROM users WHERE user_id = $1 AND many_memories)
    FROM new ORDER BY seq
    ON CONFLICT (user_id, message_id) DO UPDATE SET embedding = coalesce(episodes.embedding, excluded.embedding),
        embedding_b = coalesce(episodes.embedding_b, excluded.embedding_b)
        WHERE episodes.embedding IS NULL AND excluded.embedding IS NOT NULL
            OR episodes.embedding_b IS NULL AND excluded.embedding_b IS NOT NULL
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
    texts = [temporal.annotate(row.text, row.said_at, time_zone).replace("\x00", "") for row in rows]
    key = await index_key(connection, user_id)
    weighted = [
        term_weights(key, f"{row.speaker or ''} {text}", language) for row, text in zip(rows, texts, strict=True)
    ]
    table = associations.table()
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
        [
            await sealed(connection, user_id, "episodes", row.message_id, text)
            for row, text in zip(rows, texts, strict=True)
        ],
        _traits(rows),
        ["{" + ",".join(map(str, sorted(terms))) + "}" for terms in weighted],
        [sparse(terms) for terms in weighted],
        [None if row.vector is None else dense(row.vector) for row in rows],
        [
            await sealed_bytes(
                connection, user_id, "episodes", row.message_id, table.numbers(row.text[:INDEXED_CHARACTERS]).tobytes()
            )
            for row in rows
        ],
    )
    return int(fresh)


def _traits(rows: Sequence[EpisodeRow]) -> list[int]:
    asking = {(row.conversation_id, row.seq) for row in rows if "?" in row.text}
    speakers = frozenset(word for row in rows for word in (row.speaker or "").lower().split())
    return [
        traits.traits(row.text[:INDEXED_CHARACTERS], speakers)
        | (traits.Trait.ANSWERS if (row.conversation_id, row.seq - 1) in asking else 0)
        for row in rows
    ]


def dense(vector: Vectors) -> str:
    """A vector as the statements take it: the name of its model, when it has one, before the literal of a halfvec."""
    return (model_of(vector) or "") + "[" + ",".join(f"{x:.5f}" for x in vector.tolist()) + "]"
