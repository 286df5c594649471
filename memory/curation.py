"""The owner's hands on memory: list, look closer, add, correct, pin.

A memory is a fact (id of the fact) or an episode (id of its message). All functions see one user's rows only.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from uuid import UUID

from uuid_utils.compat import uuid7

from memory.branching import ASIDE, ROUTE
from memory.errors import AccountErasedError, MemoryNotFoundError, NotCorrectableError
from memory.facts import key_of, place_of
from memory.indexing import dense, sparse, term_weights
from memory.ports import Vectors
from memory.postgres import Connection, hold_user
from memory.transcript import JUST_ERASED, Owner
from memory.vault import index_key, misplaced, sealed

BY_USER = "user"
"""The extractor of facts that their owner wrote."""
CURRENT = ("active", "uncertain")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a memory comes from. Without a conversation: its owner said so in the memory panel."""

    conversation_id: UUID | None
    message_id: UUID | None
    seq: int | None
    quote: str


@dataclass(frozen=True, slots=True)
class Item:
    """One memory, as its owner sees it."""

    id: UUID
    layer: str
    kind: str | None
    text: str
    status: str
    pinned: bool
    route: str
    speaker: str | None
    said_at: datetime
    learnt_at: datetime | None
    valid_from: datetime | None
    valid_to: datetime | None
    due_at: datetime | None
    superseded_by: UUID | None
    confirmations: int
    by_user: bool
    conversation_id: UUID | None
    message_id: UUID | None
    seq: int | None
    quote: str
    origin: str = ""
    """Of what another program told: its name, a colon, its own id of the statement."""

    def __post_init__(self) -> None:
        place = "facts" if self.layer == "fact" else "messages"
        for name in ("text", "quote"):
            if misplaced(place, self.id, getattr(self, name)):
                object.__setattr__(self, name, "")

    @property
    def source(self) -> Source:
        return Source(self.conversation_id, self.message_id, self.seq, self.quote)


@dataclass(frozen=True, slots=True)
class Filter:
    layer: str | None = None
    kind: str | None = None
    statuses: tuple[str, ...] = CURRENT
    text: str | None = None
    conversation_id: UUID | None = None
    pinned: bool | None = None


@dataclass(frozen=True, slots=True)
class SourceMessage:
    """The message that a memory came from, as it stands in the transcript."""

    conversation_id: UUID
    message_id: UUID
    seq: int
    role: str
    speaker: str | None
    said_at: datetime
    quote: str
    content: str | None
    """None when the message is gone."""


@dataclass(frozen=True, slots=True)
class Closer:
    """One memory with all that stands behind it."""

    item: Item
    sources: list[SourceMessage] = field(default_factory=list)
    history: list[Item] = field(default_factory=list)
    """Of a fact: what it replaced and what replaced it, oldest first. Of an episode: the facts learnt from it."""


NIL = UUID(int=0)
"""The conversation of facts that their owner added."""

FACT = f"""f.id, 'fact' AS layer, f.kind, f.text, f.status, f.pinned, f.route, m.speaker, f.said_at, f.learnt_at,
    f.valid_from, f.valid_to, f.due_at, f.superseded_by, f.confirmations, f.extractor = '{BY_USER}' AS by_user,
    nullif(f.conversation_id, '{NIL}') AS conversation_id,
    CASE WHEN f.conversation_id <> '{NIL}' THEN f.message_id END AS message_id,
    CASE WHEN f.conversation_id <> '{NIL}' THEN f.source_seq END AS seq, f.quote, f.origin"""

EPISODE_STATUS = f"CASE WHEN {ASIDE} THEN 'superseded' ELSE 'active' END"
EPISODE = f"""e.message_id AS id, 'episode' AS layer, NULL::text AS kind, m.content AS text, {EPISODE_STATUS} AS status,
    false AS pinned, {ROUTE} AS route, e.speaker, e.said_at, NULL::timestamptz AS learnt_at, NULL::timestamptz AS valid_from,
    NULL::timestamptz AS valid_to, NULL::timestamptz AS due_at, NULL::uuid AS superseded_by, 0 AS confirmations,
    false AS by_user, e.conversation_id, e.message_id, e.seq, '' AS quote, '' AS origin"""

FROM_FACTS = "facts f LEFT JOIN messages m ON m.user_id = f.user_id AND m.id = f.message_id"
FROM_EPISODES = "episodes e JOIN messages m ON m.user_id = e.user_id AND m.id = e.message_id"

LIST = f"""
SELECT * FROM (
    (SELECT {FACT} FROM {FROM_FACTS}
    WHERE f.user_id = $1 AND $5::text IS DISTINCT FROM 'episode' AND ($6::text IS NULL OR f.kind = $6)
        AND f.status = ANY ($7::text[]) AND ($8::uuid IS NULL OR f.conversation_id = $8)
        AND ($9::boolean IS NULL OR f.pinned = $9)
        AND ($3::timestamptz IS NULL OR (f.said_at, f.id) < ($3, $4::uuid))
    ORDER BY f.said_at DESC, f.id DESC LIMIT $2)
    UNION ALL
    (SELECT {EPISODE} FROM {FROM_EPISODES}
    WHERE e.user_id = $1 AND $5::text IS DISTINCT FROM 'fact' AND $6::text IS NULL AND {EPISODE_STATUS} = ANY ($7::text[])
        AND ($8::uuid IS NULL OR e.conversation_id = $8) AND $9::boolean IS NOT TRUE AND ($3::timestamptz IS NULL OR (e.said_at, e.message_id) < ($3, $4::uuid))
    ORDER BY e.said_at DESC, e.message_id DESC LIMIT $2)
) AS found ORDER BY said_at DESC, id DESC LIMIT $2
"""


def _item(row: Sequence[object]) -> Item:
    return Item(*row[: len(fields(Item))])  # type: ignore[arg-type]


async def list_memories(
    connection: Connection, user_id: UUID, wanted: Filter, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[Item]:
    """Newest first by when it was said; `before` is the (said_at, id) of the last one seen."""
    found: list[Item] = []
    # text is sealed at rest: what contains the wanted words is seen only here
    size = limit if wanted.text is None else max(limit, SCAN)
    while len(found) < limit:
        page = await _page(connection, user_id, wanted, size, before)
        found += [item for item in page if _contains(item, wanted.text)]
        if len(page) < size:
            break
        before = (page[-1].said_at, page[-1].id)
    return found[:limit]


SCAN = 1000
"""Memories read at once when they are looked through for words."""


async def _page(
    connection: Connection, user_id: UUID, wanted: Filter, limit: int, before: tuple[datetime, UUID] | None
) -> list[Item]:
    rows = await connection.fetch(
        LIST,
        user_id,
        limit,
        *(before or (None, None)),
        wanted.layer,
        wanted.kind,
        list(wanted.statuses),
        wanted.conversation_id,
        wanted.pinned,
    )
    return [_item(tuple(row)) for row in rows]


def _contains(item: Item, text: str | None) -> bool:
    return text is None or text.casefold() in item.text.casefold() or text.casefold() in item.quote.casefold()


HISTORY = f"""
WITH RECURSIVE newer AS (
    SELECT id, superseded_by FROM facts WHERE user_id = $1 AND id = $2
    UNION
    SELECT f.id, f.superseded_by FROM newer n JOIN facts f ON f.user_id = $1 AND f.id = n.superseded_by
), older AS (
    SELECT id FROM newer
    UNION
    SELECT f.id FROM older o JOIN facts f ON f.user_id = $1 AND f.superseded_by = o.id
)
SELECT {FACT} FROM {FROM_FACTS}
WHERE f.user_id = $1 AND f.id IN (SELECT id FROM older) AND f.id <> $2 ORDER BY f.learnt_at, f.id
"""

SOURCES = """
SELECT DISTINCT ON (s.said_at, s.message_id)
    s.conversation_id, s.message_id, s.seq, s.role, m.speaker, s.said_at, s.quote, m.content
FROM (
    SELECT conversation_id, message_id, seq, role, said_at, quote FROM fact_sources WHERE user_id = $1 AND fact_id = $2
    UNION ALL
    SELECT conversation_id, message_id, source_seq, 'user', said_at, quote FROM facts WHERE user_id = $1 AND id = $2
) AS s LEFT JOIN messages m ON m.user_id = $1 AND m.id = s.message_id
WHERE s.conversation_id <> $3 ORDER BY s.said_at, s.message_id
"""

LEARNT_FROM = f"""
SELECT {FACT} FROM {FROM_FACTS}
WHERE f.user_id = $1 AND (f.message_id = $2
    OR EXISTS (SELECT FROM fact_sources s WHERE s.user_id = $1 AND s.fact_id = f.id AND s.message_id = $2))
ORDER BY f.learnt_at, f.id
"""


async def read_memory(connection: Connection, user_id: UUID, memory_id: UUID) -> Closer:
    """Raises `MemoryNotFoundError`, for a stranger's memory as for one that never was."""
    row = await connection.fetchrow(
        f"SELECT {FACT} FROM {FROM_FACTS} WHERE f.user_id = $1 AND f.id = $2", user_id, memory_id
    )
    if row is not None:
        sources = await connection.fetch(SOURCES, user_id, memory_id, NIL)
        history = await connection.fetch(HISTORY, user_id, memory_id)
        return Closer(_item(tuple(row)), [SourceMessage(*s) for s in sources], [_item(tuple(h)) for h in history])
    row = await connection.fetchrow(
        f"SELECT {EPISODE}, m.role FROM {FROM_EPISODES} WHERE e.user_id = $1 AND e.message_id = $2", user_id, memory_id
    )
    if row is None:
        raise MemoryNotFoundError("There is no such memory.")
    item = _item(tuple(row))
    source = SourceMessage(
        row["conversation_id"], memory_id, row["seq"], row["role"], item.speaker, item.said_at, "", item.text
    )
    learnt = await connection.fetch(LEARNT_FROM, user_id, memory_id)
    return Closer(item, [source], [_item(tuple(fact)) for fact in learnt])


ADD = """
INSERT INTO facts (user_id, id, kind, topic, text, quote, conversation_id, message_id, source_seq, ordinal,
    extractor, route, said_at, valid_from, due_at, pinned, key, lexical, embedding, embedding_b)
SELECT $1, $2, $3, '', $4, '', $5, $2, $6, 0, $7, $8, clock_timestamp(), clock_timestamp(), $9, $10, $11,
    $12::text::sparsevec, vector_for($13, 1), vector_for($13, 2)
"""


async def add_fact(
    connection: Connection,
    owner: Owner,
    *,
    kind: str,
    text: str,
    route: str,
    due_at: datetime | None,
    pinned: bool,
    vector: Vectors | None,
) -> UUID:
    """Write down what the owner says outside of any conversation; gives the fact's id."""
    fact_id = uuid7()
    await ensure_user(connection, owner)
    await connection.execute(
        ADD,
        owner.user_id,
        fact_id,
        kind,
        await sealed(connection, owner.user_id, "facts", fact_id, text),
        NIL,
        place_of(fact_id),
        BY_USER,
        route,
        due_at,
        pinned,
        *_indexed(await index_key(connection, owner.user_id), kind, text, vector),
    )
    return fact_id


def _indexed(index: bytes, kind: str, text: str, vector: Vectors | None) -> tuple[bytes, str, str | None]:
    """Key, terms and vector of a fact, as the table takes them."""
    meaning = None if vector is None else dense(vector)
    return key_of(index, kind, text), sparse(term_weights(index, text)), meaning


CORRECT = """
WITH old AS (
    SELECT * FROM facts WHERE user_id = $1 AND id = $2 AND status IN ('active', 'uncertain') FOR UPDATE
), new AS (
    INSERT INTO facts (user_id, id, kind, topic, text, quote, conversation_id, message_id, source_seq, ordinal,
        extractor, route, said_at, due_at, valid_from, valid_to, pinned, slot, confirmations, key, lexical, embedding,
        embedding_b)
    SELECT $1, $3, kind, topic, $4, quote, conversation_id, message_id, source_seq,
        (SELECT coalesce(max(o.ordinal) + 1, 0) FROM facts o WHERE o.user_id = $1
            AND o.conversation_id = old.conversation_id AND o.source_seq = old.source_seq AND o.extractor = $5),
        $5, route, said_at, due_at, valid_from, NULL, pinned, slot, 0, $6, $7::text::sparsevec, vector_for($8, 1),
        vector_for($8, 2)
    FROM old RETURNING id
), sources AS (
    INSERT INTO fact_sources (user_id, fact_id, conversation_id, message_id, seq, role, quote, said_at)
    SELECT $1, $3, s.conversation_id, s.message_id, s.seq, s.role, s.quote, s.said_at
    FROM fact_sources s, new WHERE s.user_id = $1 AND s.fact_id = $2
)
UPDATE facts SET status = 'corrected', superseded_by = $3, valid_to = facts.valid_from, pinned = false
FROM new WHERE facts.user_id = $1 AND facts.id = $2 RETURNING facts.id
"""


async def correct_fact(connection: Connection, user_id: UUID, fact_id: UUID, text: str, vector: Vectors | None) -> UUID:
    """Replace what a fact says, and keep the old words as history; gives the new fact's id.

    The caller also lays tombstones for the old one (`memory.erasure.forget_corrected`), so that its source doesn't teach
    it again. Raises `MemoryNotFoundError`; `NotCorrectableError` for an episode and for a fact that is history already.
    """
    await hold_user(connection, user_id)
    new_id = uuid7()
    kind = await connection.fetchval("SELECT kind FROM facts WHERE user_id = $1 AND id = $2", user_id, fact_id)
    words = await sealed(connection, user_id, "facts", new_id, text)
    done = await connection.fetchval(
        CORRECT,
        user_id,
        fact_id,
        new_id,
        words,
        BY_USER,
        *_indexed(await index_key(connection, user_id), kind or "", text, vector),
    )
    if done is None:
        found = await read_memory(connection, user_id, fact_id)
        if found.item.layer == "episode":
            raise NotCorrectableError("This is what was said, word for word; it can be forgotten, not changed.")
        raise NotCorrectableError("This fact is history already; correct the one that replaced it.")
    await drop_profiles(connection, user_id)
    return new_id


async def pin_fact(connection: Connection, user_id: UUID, fact_id: UUID, *, pinned: bool) -> None:
    """Keep a fact in every prompt, or no longer. Raises `MemoryNotFoundError` or `NotCorrectableError`."""
    await hold_user(connection, user_id)
    done = await connection.fetchval(
        """UPDATE facts SET pinned = $3 WHERE user_id = $1 AND id = $2 AND status IN ('active', 'uncertain')
        RETURNING id""",
        user_id,
        fact_id,
        pinned,
    )
    if done is None:
        await read_memory(connection, user_id, fact_id)
        raise NotCorrectableError("Only a fact that holds now can be pinned.")


async def drop_profiles(connection: Connection, user_id: UUID) -> None:
    """What was derived from the facts as they were goes; whoever reads or learns next writes it anew."""
    await connection.execute("DELETE FROM profiles WHERE user_id = $1", user_id)


async def ensure_user(connection: Connection, owner: Owner) -> None:
    """The user's row; an account that was erased begins anew. Raises `AccountErasedError` right after the erasure."""
    await connection.execute(
        f"""INSERT INTO users (user_id, issuer, subject) VALUES ($1, $2, $3) ON CONFLICT (user_id) DO UPDATE
        SET issuer = excluded.issuer, subject = excluded.subject, created_at = now(), deleted_at = NULL
        WHERE users.deleted_at < now() - interval '{JUST_ERASED} seconds'""",
        owner.user_id,
        owner.issuer,
        owner.subject,
    )
    if await connection.fetchval("SELECT deleted_at FROM users WHERE user_id = $1", owner.user_id) is not None:
        raise AccountErasedError("The account was erased just now. It can begin anew in a minute.")


async def quotes(connection: Connection, user_id: UUID, memory_ids: Sequence[UUID]) -> dict[UUID, str]:
    """The words behind each memory: a fact's quote, an episode's message."""
    rows = await connection.fetch(
        """SELECT id, quote FROM facts WHERE user_id = $1 AND id = ANY ($2::uuid[])
        UNION ALL SELECT id, content FROM messages WHERE user_id = $1 AND id = ANY ($2::uuid[])""",
        user_id,
        list(memory_ids),
    )
    return {row["id"]: row["quote"] for row in rows}


async def speakers(connection: Connection, user_id: UUID) -> tuple[str, ...]:
    """Names that occur among this user's memories: enough of them to notice who is asked about."""
    rows = await connection.fetch(
        """SELECT DISTINCT speaker FROM (
            SELECT speaker FROM episodes WHERE user_id = $1 AND speaker IS NOT NULL LIMIT 500
        ) AS sample""",
        user_id,
    )
    return tuple(row["speaker"] for row in rows)
