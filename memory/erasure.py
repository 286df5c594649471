"""Forgetting: one memory, all of them, or everything about a user. What was forgotten leaves no words behind.

Words go from the message that was their source too, and from all that was made of it: episode, vector, terms, summary,
profile, title. What else rested on the same words is forgotten with them. Learning and these functions lock the user's
row first, so that a late learner either wrote before (and its work is erased) or finds a tombstone.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from uuid_utils.compat import uuid7

from memory import echoes, tombstones
from memory.echoes import Echo
from memory.errors import MemoryNotFoundError
from memory.postgres import Connection, be_patient, hold_user
from memory.quotes import locate
from memory.turns import TITLE
from memory.vault import sealed

MARK = "[forgotten]"
"""Stands in a message where its words were."""
PATIENCE = 120.0
"""Seconds for one statement: a user may have many rows, and a stopped process may hold some of them for a while."""


@dataclass(slots=True)
class Erasure:
    """What an erasure did here, and what its caller still has to do outside of PostgreSQL."""

    scope: str
    id: UUID = field(default_factory=uuid7)
    counts: Counter[str] = field(default_factory=Counter)
    """Rows removed or changed, by what they are; 0 where nothing was found."""
    facts: list[UUID] = field(default_factory=list)
    conversations: set[UUID] = field(default_factory=set)
    """Whose live state has to go."""
    turns: set[tuple[UUID, UUID]] = field(default_factory=set)
    """(conversation, turn) whose reply logs have to go."""
    running: bool = False
    """A reply was being written; its writer learns of the end with its next renewal."""
    redacted: list[UUID] = field(default_factory=list)
    """Messages that still have words, and need an episode of what is left."""
    told: list[str] = field(default_factory=list, repr=False)
    """What the forgotten facts said, to find the summaries that tell it. It leaves this process nowhere."""
    gone: set[UUID] = field(default_factory=set)
    """Messages whose words went, all or some."""
    similar: list[Echo] = field(default_factory=list)
    """What may still say what was forgotten, in other words."""


@dataclass(frozen=True, slots=True)
class _Message:
    id: UUID
    conversation_id: UUID
    role: str
    content: str
    created_at: datetime


async def forget(connection: Connection, user_id: UUID, memory_id: UUID, *, similar: bool = False) -> Erasure:
    """Forget a fact with its history, or an episode; raises `MemoryNotFoundError`.

    What may say the same in other words is named in `Erasure.similar`; with `similar` what surely does is forgotten too.
    """
    await _lock(connection, user_id)
    erasure = Erasure("memory")
    await _forget_one(connection, user_id, memory_id, erasure)
    if similar:
        for echo in [echo for echo in erasure.similar if echo.sure]:
            with contextlib.suppress(MemoryNotFoundError):  # it went with another
                await _forget_one(connection, user_id, echo.id, erasure)
    await _forget_derived(connection, user_id, erasure)
    return erasure


async def _forget_one(connection: Connection, user_id: UUID, memory_id: UUID, erasure: Erasure) -> None:
    chain = [row["id"] for row in await connection.fetch(CHAIN, user_id, memory_id)]
    if chain:
        spans = await _spans_of(connection, user_id, chain)
        erasure.similar += await echoes.find(connection, user_id, chain, list(spans))
        erasure.told += await _texts(connection, user_id, chain)
        messages = await _messages(connection, user_id, list(spans))
        for message in messages:
            await _redact(connection, user_id, erasure, message, spans[message.id])
        await _delete_facts(connection, user_id, erasure, chain)
    else:
        messages = await _messages(connection, user_id, [memory_id])
        if not messages:
            raise MemoryNotFoundError("There is no such memory.")
        erasure.similar += await echoes.find(connection, user_id, [], [memory_id], whole=messages[0].content)
        # the first word of a sentence is written like a name, and need not be one
        erasure.told += [said[:1].lower() + said[1:] for said in echoes.statements(messages[0].content)]
        await _redact(connection, user_id, erasure, messages[0], None)
    erasure.gone.update(message.id for message in messages)
    await _forget_what_lost_its_words(connection, user_id, erasure, [message.id for message in messages])


async def _texts(connection: Connection, user_id: UUID, facts: Sequence[UUID]) -> list[str]:
    rows = await connection.fetch(
        "SELECT text FROM facts WHERE user_id = $1 AND id = ANY ($2::uuid[])", user_id, list(facts)
    )
    return [row["text"] for row in rows]


CHAIN = """
WITH RECURSIVE chain AS (
    SELECT id FROM facts WHERE user_id = $1 AND id = $2
    UNION
    SELECT f.id FROM chain JOIN facts f ON f.user_id = $1 AND f.superseded_by = chain.id
)
SELECT id FROM chain
"""


async def _lock(connection: Connection, user_id: UUID) -> None:
    await be_patient(connection, PATIENCE)
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR NO KEY UPDATE", user_id, timeout=PATIENCE)


async def _spans_of(connection: Connection, user_id: UUID, facts: Sequence[UUID]) -> dict[UUID, list[str]]:
    """The quotes that the facts rest on, by message."""
    rows = await connection.fetch(
        """SELECT message_id, quote FROM fact_sources WHERE user_id = $1 AND fact_id = ANY ($2::uuid[])
        UNION SELECT message_id, quote FROM facts WHERE user_id = $1 AND id = ANY ($2::uuid[])""",
        user_id,
        facts,
    )
    spans: dict[UUID, list[str]] = {}
    for row in rows:
        spans.setdefault(row["message_id"], []).append(row["quote"])
    return spans


async def _messages(connection: Connection, user_id: UUID, ids: Sequence[UUID]) -> list[_Message]:
    rows = await connection.fetch(
        """SELECT id, conversation_id, role, content, created_at FROM messages
        WHERE user_id = $1 AND id = ANY ($2::uuid[]) ORDER BY conversation_id, seq FOR UPDATE""",
        user_id,
        ids,
    )
    return [_Message(*row) for row in rows]


async def _redact(
    connection: Connection, user_id: UUID, erasure: Erasure, message: _Message, quotes: Sequence[str] | None
) -> None:
    """Take the quotes, or all words, out of a message and of what was made of it."""
    content = MARK if quotes is None else without(message.content, quotes)
    if content == message.content:
        return  # the words went before, with another fact
    digests = [tombstones.message_digest(user_id, message.role, message.created_at, message.content)]
    if tombstones.is_telling(message.content):
        digests.append(tombstones.words_digest(user_id, message.role, message.content))
    await tombstones.bury(connection, user_id, digests)
    await connection.execute(
        "UPDATE messages SET content = $3, fingerprint = NULL WHERE user_id = $1 AND id = $2",
        user_id,
        message.id,
        await sealed(connection, user_id, "messages", message.id, content),
    )
    erasure.counts["messages"] += 1
    gone = await connection.execute("DELETE FROM episodes WHERE user_id = $1 AND message_id = $2", user_id, message.id)
    erasure.counts["episodes"] += _number(gone)
    await _retitle(connection, user_id, message, content)
    erasure.conversations.add(message.conversation_id)
    if content.replace(MARK, "").strip(" .,;:!?\n\t"):
        erasure.redacted.append(message.id)


async def _retitle(connection: Connection, user_id: UUID, message: _Message, content: str) -> None:
    """The first message lent its beginning to the conversation's title."""
    title = await connection.fetchval(
        "SELECT title FROM conversations WHERE user_id = $1 AND id = $2 FOR UPDATE", user_id, message.conversation_id
    )
    if title and title == message.content[:TITLE]:
        await connection.execute(
            "UPDATE conversations SET title = $3 WHERE user_id = $1 AND id = $2",
            user_id,
            message.conversation_id,
            await sealed(connection, user_id, "conversations", message.conversation_id, content[:TITLE]),
        )


def without(content: str, quotes: Iterable[str]) -> str:
    """The text with each quote, wherever it stands, replaced by a mark; all of it when a quote can't be found."""
    for quote in quotes:
        found = False
        while (span := locate(quote, content)) is not None:
            content = content[: span[0]] + MARK + content[span[1] :]
            found = True
            if locate(quote, MARK) is not None:
                break  # somebody asks to forget "forgotten"
        if not found and MARK not in content:
            return MARK
    return content


async def _delete_facts(connection: Connection, user_id: UUID, erasure: Erasure, facts: Sequence[UUID]) -> None:
    rows = await connection.fetch(
        "SELECT fact_id FROM fact_sources WHERE user_id = $1 AND fact_id = ANY ($2::uuid[])", user_id, facts
    )
    erasure.counts["fact_sources"] += len(rows)
    await tombstones.bury_told(connection, user_id, facts)
    await connection.execute(
        """UPDATE facts SET uncertain_because = NULL WHERE user_id = $1 AND uncertain_because = ANY ($2::uuid[])""",
        user_id,
        facts,
    )
    gone = await connection.fetch(
        "DELETE FROM facts WHERE user_id = $1 AND id = ANY ($2::uuid[]) RETURNING id, conversation_id", user_id, facts
    )
    erasure.facts += [row["id"] for row in gone]
    erasure.counts["facts"] += len(gone)


async def _forget_what_lost_its_words(
    connection: Connection, user_id: UUID, erasure: Erasure, message_ids: Sequence[UUID]
) -> None:
    """Facts of the same messages: those whose words went too lose this source; those left with none go."""
    rows = await connection.fetch(
        """SELECT s.fact_id, s.message_id, s.quote, m.content FROM fact_sources s
        JOIN messages m ON m.user_id = s.user_id AND m.id = s.message_id
        WHERE s.user_id = $1 AND s.message_id = ANY ($2::uuid[])""",
        user_id,
        message_ids,
    )
    lost = [(row["fact_id"], row["message_id"]) for row in rows if not locate(row["quote"], row["content"])]
    orphans: dict[UUID, None] = {}
    for fact_id, message_id in lost:
        await connection.execute(
            "DELETE FROM fact_sources WHERE user_id = $1 AND fact_id = $2 AND message_id = $3",
            user_id,
            fact_id,
            message_id,
        )
        erasure.counts["fact_sources"] += 1
        moved = await connection.fetchval(OTHER_SOURCE, user_id, fact_id, message_id)
        if moved is None:
            orphans |= {row["id"]: None for row in await connection.fetch(CHAIN, user_id, fact_id)}
    if orphans:
        erasure.similar += await echoes.find(connection, user_id, list(orphans), message_ids)
        erasure.told += await _texts(connection, user_id, list(orphans))
        await _delete_facts(connection, user_id, erasure, list(orphans))


# a fact that was said more than once goes on resting on the other message
OTHER_SOURCE = """
WITH other AS (
    SELECT conversation_id, message_id, seq, quote, said_at FROM fact_sources
    WHERE user_id = $1 AND fact_id = $2 ORDER BY said_at, message_id LIMIT 1
)
UPDATE facts f SET conversation_id = CASE WHEN f.message_id = $3 THEN other.conversation_id ELSE f.conversation_id END,
    source_seq = CASE WHEN f.message_id = $3 THEN other.seq ELSE f.source_seq END,
    quote = CASE WHEN f.message_id = $3 THEN other.quote ELSE f.quote END,
    message_id = CASE WHEN f.message_id = $3 THEN other.message_id ELSE f.message_id END,
    ordinal = CASE WHEN f.message_id = $3 THEN 1000 + (
        SELECT coalesce(max(o.ordinal), 0) FROM facts o
        WHERE o.user_id = $1 AND o.conversation_id = other.conversation_id AND o.source_seq = other.seq
    ) ELSE f.ordinal END
FROM other WHERE f.user_id = $1 AND f.id = $2 RETURNING f.id
"""


async def _forget_derived(connection: Connection, user_id: UUID, erasure: Erasure) -> None:
    """Summaries, profiles and what turns kept for a take-over: written anew from what is left. Of reasoning nothing is
    left that was kept since the words were said."""
    conversations = list(erasure.conversations)
    erasure.turns = await _logged_turns(connection, user_id)  # any of them may have recalled what is forgotten now
    erasure.counts["summaries"] += int(
        await connection.fetchval(
            "SELECT count(*) FROM conversations WHERE user_id = $1 AND id = ANY ($2::uuid[]) AND summary <> ''",
            user_id,
            conversations,
        )
    )
    # the version fails a summary that is being written from what the messages said before
    await connection.execute(
        """UPDATE conversations SET summary = '', summary_seq = 0, version = version + 1
        WHERE user_id = $1 AND id = ANY ($2::uuid[])""",
        user_id,
        conversations,
    )
    elsewhere = await echoes.drop_summaries(connection, user_id, erasure.told)
    erasure.counts["summaries"] += len(elsewhere)
    erasure.conversations |= elsewhere
    named = {echo.id: echo for echo in erasure.similar if echo.id not in erasure.gone | set(erasure.facts)}
    erasure.similar = sorted(named.values(), key=lambda echo: -echo.likeness)
    erasure.counts["reasoning"] += await _execute(connection, UNREASONED, user_id, list(erasure.gone))
    erasure.counts["profiles"] += await _execute(connection, "DELETE FROM profiles WHERE user_id = $1", user_id)
    erasure.counts["turns"] += await _execute(
        connection,
        """UPDATE turns SET checkpoint = '', request = '{}' WHERE user_id = $1 AND conversation_id = ANY ($2::uuid[])
        AND status <> 'running' AND (checkpoint <> '' OR request <> '{}')""",
        user_id,
        conversations,
    )
    for table in ("outbox", "quarantine"):  # they hold ids and never words; looked at, so that the receipt can say so
        erasure.counts[table] += 0


# a model thinks about all that it is told, and any later reply may have been told of it
UNREASONED = """
UPDATE messages SET reasoning = '' WHERE user_id = $1 AND reasoning <> ''
    AND created_at >= (SELECT min(said.created_at) FROM messages said WHERE said.user_id = $1 AND said.id = ANY ($2::uuid[]))
"""


async def _logged_turns(connection: Connection, user_id: UUID) -> set[tuple[UUID, UUID]]:
    """Turns whose reply logs may still be kept; older ones have expired."""
    rows = await connection.fetch(
        """SELECT conversation_id, id FROM turns
        WHERE user_id = $1 AND (finished_at IS NULL OR finished_at > now() - interval '2 hours')""",
        user_id,
    )
    return {(row["conversation_id"], row["id"]) for row in rows}


ALL_MEMORIES = ("facts", "episodes", "profiles", "quarantine")
ENDED = '{"code": "conversation_not_found"}'


async def forget_all(connection: Connection, user_id: UUID, *, keep_conversations: bool) -> Erasure:
    """Forget every memory of a user, and delete the conversations; or keep them to read, with nothing learnt."""
    await _lock(connection, user_id)
    erasure = Erasure("memories" if keep_conversations else "memories_and_conversations")
    rows = await connection.fetch(
        "SELECT id, active_turn FROM conversations WHERE user_id = $1 AND deleted_at IS NULL ORDER BY id FOR UPDATE",
        user_id,
        timeout=PATIENCE,
    )
    erasure.conversations = {row["id"] for row in rows}
    erasure.running = any(row["active_turn"] is not None for row in rows)
    erasure.turns = await _logged_turns(connection, user_id)
    if keep_conversations:
        erasure.counts["summaries"] += await _execute(
            connection,
            """UPDATE conversations SET summary = '', summary_seq = next_seq - 1, learnt_seq = next_seq - 1,
                learn_attempts = 0, version = version + 1 WHERE user_id = $1""",
            user_id,
        )
        erasure.counts["reasoning"] += await _execute(
            connection, "UPDATE messages SET reasoning = '' WHERE user_id = $1 AND reasoning <> ''", user_id
        )
        tables: tuple[str, ...] = ("outbox", *ALL_MEMORIES)
    else:
        await _end_turns(connection, user_id)
        erasure.counts["conversations"] += await _execute(
            connection,
            """UPDATE conversations SET deleted_at = now(), lock_epoch = lock_epoch + 1, title = '', persona = '',
                companion_name = '', summary = '', active_turn = NULL, import_key = NULL
            WHERE user_id = $1 AND deleted_at IS NULL""",
            user_id,
        )
        tables = ("outbox", *ALL_MEMORIES, "messages")
    for table in tables:
        if table == "facts":
            erasure.counts["fact_sources"] += int(
                await connection.fetchval("SELECT count(*) FROM fact_sources WHERE user_id = $1", user_id)
            )
        erasure.counts[table] += await _execute(connection, f"DELETE FROM {table} WHERE user_id = $1", user_id)
    return erasure


async def _end_turns(connection: Connection, user_id: UUID) -> None:
    """Fence what is being written: its writer can neither renew nor commit, and stops."""
    await connection.execute(
        f"""UPDATE turns SET checkpoint = '', request = '{{}}', epoch = epoch + 1,
            finished_at = coalesce(finished_at, now()),
            failure = CASE WHEN status = 'running' THEN '{ENDED}'::jsonb ELSE failure END,
            status = CASE WHEN status = 'running' THEN 'failed' ELSE status END
        WHERE user_id = $1""",
        user_id,
    )


# Every table that has an owner, whoever made it: what a later release adds is erased without a change here.
OWNED = """
SELECT c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attname = 'user_id'
WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relnamespace = current_schema()::regnamespace
ORDER BY c.relname <> 'conversations', c.relname <> 'turns', c.relname
"""
KEPT = ("users", "erasures")
"""users: the tombstone of the account, without a name; erasures: the receipts, which hold numbers only."""


async def erase_user(connection: Connection, user_id: UUID) -> Erasure:
    """Erase every row of the user in every table. A learner or a writer that comes late finds nothing to write to."""
    await be_patient(connection, PATIENCE)
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR UPDATE", user_id, timeout=PATIENCE)
    erasure = Erasure("account")
    erasure.conversations = {
        row["id"]
        for row in await connection.fetch(
            "SELECT id FROM conversations WHERE user_id = $1 FOR UPDATE", user_id, timeout=PATIENCE
        )
    }
    erasure.turns = await _logged_turns(connection, user_id)
    erasure.running = bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM turns WHERE user_id = $1 AND status = 'running')", user_id
        )
    )
    erasure.counts["users"] += await _execute(
        connection,
        """UPDATE users SET deleted_at = now(), issuer = '', subject = '', birth_date = NULL, known_minor = false,
            known_below = NULL, time_zone = 'UTC', version = version + 1 WHERE user_id = $1""",
        user_id,
    )
    erasure.counts["fact_sources"] += 0
    for row in await connection.fetch(OWNED):
        table = row["relname"]
        if table not in KEPT:
            erasure.counts[table] += await _execute(connection, f'DELETE FROM "{table}" WHERE user_id = $1', user_id)
    return erasure


async def keep_receipt(connection: Connection, user_id: UUID, erasure: Erasure, receipt: dict[str, Any]) -> None:
    """The receipt holds numbers and names of stores, never words; it can be exported."""
    await connection.execute(
        "INSERT INTO erasures (user_id, id, scope, receipt) VALUES ($1, $2, $3, $4)",
        user_id,
        erasure.id,
        erasure.scope,
        receipt,
    )


async def forget_corrected(connection: Connection, user_id: UUID, fact_id: UUID) -> None:
    """The words that taught a fact which its owner has corrected do not teach it again."""
    await hold_user(connection, user_id)
    # with what it replaced: of what other programs tell, some was known here in other words
    chain = [row["id"] for row in await connection.fetch(CHAIN, user_id, fact_id)]
    await tombstones.bury_told(connection, user_id, chain)
    rows = await connection.fetch(
        "SELECT role, said_at, quote FROM fact_sources WHERE user_id = $1 AND fact_id = $2", user_id, fact_id
    )
    await tombstones.bury(
        connection,
        user_id,
        [tombstones.quote_digest(user_id, row["role"], row["said_at"], row["quote"]) for row in rows],
    )


async def _execute(connection: Connection, statement: str, *arguments: object) -> int:
    return _number(await connection.execute(statement, *arguments, timeout=PATIENCE))


def _number(tag: str) -> int:
    return int(tag.rpartition(" ")[2])
