"""Facts in PostgreSQL: written, merged, replaced, made uncertain; never overwritten, so that history stays readable."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from memory import indexing, words
from memory.extraction import Said
from memory.ports import Vectors
from memory.postgres import Connection
from memory.vault import index_key, sealed

CURRENT_LIMIT = 2000
"""Current facts of a user that a new one is compared with, newest first."""


@dataclass(frozen=True, slots=True)
class NewFact:
    """A supported claim, ready to be settled against what is known."""

    id: UUID
    kind: str
    topic: str
    slot: str
    value: str
    """What the slot holds, in words; empty without a slot."""
    text: str
    quote: str
    source: Said
    conversation_id: UUID
    ordinal: int
    extractor: str
    route: str
    companion: str
    valid_from: datetime
    due_at: datetime | None
    key: bytes
    vector: Vectors | None = None


@dataclass(frozen=True, slots=True)
class KnownFact:
    id: UUID
    kind: str
    topic: str
    slot: str
    text: str
    key: bytes
    status: str
    pinned: bool
    said_at: datetime
    valid_from: datetime
    companion: str


def place_of(fact_id: UUID) -> int:
    """A place among a user's facts for one that has no message, as the table wants each source to have: the id's random
    part. Its head is a clock, and the same for all facts of one millisecond."""
    return fact_id.int & ((1 << 62) - 1)


def gist(kind: str, text: str) -> str:
    """What a fact says, whatever its word order, endings and punctuation.

    Whether it denies and which numbers it names are part of it, since stems alone lose the first.
    """
    return " ".join(
        [kind, "not" if words.is_denial(text) else "", *sorted(words.content(text)), *sorted(words.numbers(text))]
    )


def key_of(index: bytes, kind: str, text: str) -> bytes:
    """A digest of a fact's gist, keyed by `vault.index_key`."""
    return hashlib.blake2b(gist(kind, text).encode(), key=index, digest_size=16).digest()


CURRENT = f"""
SELECT f.id, f.kind, f.topic, f.slot, f.text, f.key, f.status, f.pinned, f.said_at, f.valid_from,
    coalesce(c.companion_name, '')
FROM facts f LEFT JOIN conversations c ON c.user_id = f.user_id AND c.id = f.conversation_id
WHERE f.user_id = $1 AND f.route = $2 AND f.status IN ('active', 'uncertain')
ORDER BY f.said_at DESC LIMIT {CURRENT_LIMIT}
"""


async def read_current(connection: Connection, user_id: UUID, route: str) -> list[KnownFact]:
    """What holds now on this route: a fact of one route never touches, or shows itself to, another's."""
    return [KnownFact(*row) for row in await connection.fetch(CURRENT, user_id, route)]


ADD = """
INSERT INTO facts (user_id, id, kind, topic, slot, key, text, quote, conversation_id, message_id, source_seq, ordinal, extractor, route,
    said_at, due_at, valid_from, valid_to, superseded_by, status, lexical, embedding,
    embedding_b)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19,
    CASE WHEN $19::uuid IS NULL THEN 'active' ELSE 'superseded' END, $20::text::sparsevec, vector_for($21, 1),
    vector_for($21, 2))
"""
SOURCE = """
INSERT INTO fact_sources (user_id, fact_id, conversation_id, message_id, seq, role, quote, said_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (user_id, fact_id, message_id) DO NOTHING
RETURNING 1
"""


async def add(
    connection: Connection,
    user_id: UUID,
    fact: NewFact,
    *,
    valid_to: datetime | None = None,
    superseded_by: UUID | None = None,
) -> None:
    """Write a fact with its source; with `superseded_by` it is history from the start."""
    await connection.execute(
        ADD,
        user_id,
        fact.id,
        fact.kind,
        fact.topic,
        fact.slot,
        fact.key,
        await sealed(connection, user_id, "facts", fact.id, fact.text),
        await sealed(connection, user_id, "facts", fact.id, fact.quote),
        fact.conversation_id,
        fact.source.message_id,
        fact.source.seq,
        fact.ordinal,
        fact.extractor,
        fact.route,
        fact.source.said_at,
        fact.due_at,
        fact.valid_from,
        valid_to,
        superseded_by,
        indexing.sparse(indexing.term_weights(await index_key(connection, user_id), fact.text)),
        None if fact.vector is None else indexing.dense(fact.vector),
    )
    await add_source(connection, user_id, fact.id, fact)


async def add_source(connection: Connection, user_id: UUID, fact_id: UUID, fact: NewFact) -> bool:
    """Note that this message says it (too); False when that was known."""
    said = fact.source
    return bool(
        await connection.fetchval(
            SOURCE,
            user_id,
            fact_id,
            fact.conversation_id,
            said.message_id,
            said.seq,
            said.role,
            await sealed(connection, user_id, "fact_sources", said.message_id, fact.quote),
            said.said_at,
        )
    )


async def confirm(connection: Connection, user_id: UUID, known: UUID, fact: NewFact) -> bool:
    """The fact was said again: one more source, and certain again if it was uncertain. What is history stays so."""
    if not await add_source(connection, user_id, known, fact):
        return False
    done = await connection.fetchval(
        """UPDATE facts SET confirmations = confirmations + 1, status = 'active', uncertain_because = NULL,
            due_at = greatest(due_at, $3)
        WHERE user_id = $1 AND id = $2 AND status IN ('active', 'uncertain') RETURNING true""",
        user_id,
        known,
        fact.due_at,
    )
    return done is not None


async def supersede(connection: Connection, user_id: UUID, old: UUID, new: UUID, until: datetime) -> None:
    """The old fact was true until then, and stays readable as such."""
    await connection.execute(
        """UPDATE facts SET status = 'superseded', superseded_by = $3, valid_to = greatest(valid_from, $4), uncertain_because = NULL
        WHERE user_id = $1 AND id = $2""",
        user_id,
        old,
        new,
        until,
    )


async def merge(connection: Connection, user_id: UUID, old: UUID, new: UUID) -> None:
    """The new fact says all that the old one says, and more: it takes over the old one's sources."""
    await connection.execute(
        """INSERT INTO fact_sources (user_id, fact_id, conversation_id, message_id, seq, role, quote, said_at)
        SELECT user_id, $3, conversation_id, message_id, seq, role, quote, said_at FROM fact_sources WHERE user_id = $1 AND fact_id = $2
        ON CONFLICT (user_id, fact_id, message_id) DO NOTHING""",
        user_id,
        old,
        new,
    )
    await connection.execute(
        """UPDATE facts f SET status = 'superseded', superseded_by = $3, uncertain_because = NULL
        WHERE user_id = $1 AND id = $2""",
        user_id,
        old,
        new,
    )
    await connection.execute(
        """UPDATE facts new SET confirmations = old.confirmations + 1, pinned = old.pinned, valid_from = least(old.valid_from, new.valid_from)
        FROM facts old WHERE new.user_id = $1 AND new.id = $3 AND old.user_id = $1 AND old.id = $2""",
        user_id,
        old,
        new,
    )


async def make_uncertain(connection: Connection, user_id: UUID, facts: Sequence[UUID], because: UUID) -> None:
    """What depended on something that changed is neither true nor false now: the companion should ask."""
    await connection.execute(
        """UPDATE facts SET status = 'uncertain', uncertain_because = $3
        WHERE user_id = $1 AND id = ANY ($2::uuid[]) AND status = 'active'""",
        user_id,
        list(facts),
        because,
    )
