"""Conversations and their messages, as PostgreSQL keeps them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from memory.branching import keep_to_way
from memory.errors import AccountErasedError, ConversationNotFoundError, RouteLockedError, TurnInProgressError
from memory.outliving import unlearn
from memory.postgres import Connection, hold_user
from memory.vault import misplaced, sealed

Role = Literal["user", "assistant", "system"]
MessageStatus = Literal["complete", "stopped", "cut"]
"""Cut at the length limit; what was stopped or cut can be gone on with."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Who a caller is; `user_id` is derived from the other two."""

    user_id: UUID
    issuer: str
    subject: str


@dataclass(frozen=True, slots=True)
class Conversation:
    user_id: UUID
    id: UUID
    title: str
    route: str
    lock_reason: str | None
    lock_epoch: int
    companion_name: str
    persona: str
    time_zone: str
    head_id: UUID | None
    active_turn: UUID | None
    last_seq: int
    summary: str
    created_at: datetime
    updated_at: datetime
    version: int
    """Rises with whatever changes what is known of it beside new messages: words forgotten, a summary, name, persona."""

    def __post_init__(self) -> None:
        for name in ("title", "persona", "summary"):
            if misplaced("conversations", self.id, getattr(self, name)):
                object.__setattr__(self, name, "")


@dataclass(frozen=True, slots=True)
class Message:
    id: UUID
    conversation_id: UUID
    seq: int
    parent_id: UUID | None
    turn_id: UUID | None
    role: Role
    speaker: str | None
    content: str
    status: MessageStatus
    created_at: datetime
    continues: UUID | None = None
    """The reply whose text this one begins with: it was stopped or cut, and this is the whole of it."""
    reasoning: str = ""
    """What the model thought, where that was kept. Only `list_messages` reads it: it is for people, never for a prompt."""

    def __post_init__(self) -> None:
        for name in ("content", "reasoning"):
            if misplaced("messages", self.id, getattr(self, name)):
                object.__setattr__(self, name, "")


@dataclass(frozen=True, slots=True)
class ImportedMessage:
    id: UUID
    role: str
    speaker: str | None
    content: str
    created_at: datetime
    external_id: str | None = None
    chain: bytes | None = None


CONVERSATION = """user_id, id, title, route, lock_reason, lock_epoch, companion_name, persona, time_zone, head_id, active_turn,
    next_seq - 1 AS last_seq, summary, created_at, updated_at, version"""

MESSAGE = "id, conversation_id, seq, parent_id, turn_id, role, speaker, content, status, created_at, continues"

JUST_ERASED = 60
"""Seconds after an erasure in which nothing begins anew: other processes may hold the destroyed key so long."""

CREATE = f"""
WITH owner AS (
    -- waits for an erasure of the user that is under way; whoever comes back after one begins anew
    INSERT INTO users (user_id, issuer, subject) VALUES ($1, $2, $3) ON CONFLICT (user_id) DO UPDATE
    SET issuer = excluded.issuer, subject = excluded.subject, created_at = now(), deleted_at = NULL
    WHERE users.deleted_at < now() - interval '{JUST_ERASED} seconds'
)
INSERT INTO conversations (user_id, id, title, route, companion_name, persona, time_zone, source)
SELECT $1, $4, $5, $6, $7, $8, $9, $10
WHERE NOT EXISTS (SELECT FROM users WHERE user_id = $1 AND deleted_at >= now() - interval '{JUST_ERASED} seconds')
RETURNING {CONVERSATION}
"""


async def create_conversation(
    connection: Connection,
    owner: Owner,
    conversation_id: UUID,
    *,
    route: str,
    title: str = "",
    companion_name: str = "",
    persona: str = "",
    time_zone: str = "UTC",
    source: str = "native",
) -> Conversation:
    row = await connection.fetchrow(
        CREATE,
        owner.user_id,
        owner.issuer,
        owner.subject,
        conversation_id,
        await sealed(connection, owner.user_id, "conversations", conversation_id, title),
        route,
        companion_name,
        await sealed(connection, owner.user_id, "conversations", conversation_id, persona),
        time_zone,
        source,
    )
    if row is None:
        raise AccountErasedError("The account was erased just now. It can begin anew in a minute.")
    return Conversation(*row)


async def read_conversation(connection: Connection, user_id: UUID, conversation_id: UUID) -> Conversation:
    """Raises `ConversationNotFoundError`, for a stranger's conversation as for one that never was."""
    row = await connection.fetchrow(
        f"SELECT {CONVERSATION} FROM conversations WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL",
        user_id,
        conversation_id,
    )
    if row is None:
        raise ConversationNotFoundError("There is no such conversation.")
    return Conversation(*row)


async def read_route(connection: Connection, user_id: UUID, conversation_id: UUID) -> str | None:
    """Also of a conversation that was deleted; None when there never was one."""
    route: str | None = await connection.fetchval(
        "SELECT route FROM conversations WHERE user_id = $1 AND id = $2", user_id, conversation_id
    )
    return route


async def list_conversations(
    connection: Connection, user_id: UUID, limit: int, before: tuple[datetime, UUID] | None = None
) -> list[Conversation]:
    """Newest first; `before` is the (updated_at, id) of the last one seen."""
    rows = await connection.fetch(
        f"""SELECT {CONVERSATION} FROM conversations
        WHERE user_id = $1 AND deleted_at IS NULL AND ($3::timestamptz IS NULL OR (updated_at, id) < ($3, $4::uuid))
        ORDER BY updated_at DESC, id DESC LIMIT $2""",
        user_id,
        limit,
        *(before or (None, None)),
    )
    return [Conversation(*row) for row in rows]


async def update_conversation(
    connection: Connection,
    user_id: UUID,
    conversation_id: UUID,
    *,
    title: str | None,
    companion_name: str | None,
    persona: str | None,
) -> Conversation:
    row = await connection.fetchrow(
        f"""UPDATE conversations SET title = coalesce($3, title), companion_name = coalesce($4, companion_name),
            persona = coalesce($5, persona), version = version + 1, updated_at = now()
        WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING {CONVERSATION}""",
        user_id,
        conversation_id,
        None if title is None else await sealed(connection, user_id, "conversations", conversation_id, title),
        companion_name,
        None if persona is None else await sealed(connection, user_id, "conversations", conversation_id, persona),
    )
    if row is None:
        raise ConversationNotFoundError("There is no such conversation.")
    return Conversation(*row)


async def set_lock(
    connection: Connection, user_id: UUID, conversation_id: UUID, reason: str | None, *, by: str = "user"
) -> Conversation:
    """Lock (or, without a reason, unlock) the conversation; either way a new epoch stops what was being written.

    `by` is "user" or "operator". What an operator locked (for moderation, a parent or a court), no user changes: raises
    `RouteLockedError`.
    """
    row = await connection.fetchrow(
        f"""UPDATE conversations SET lock_reason = $3, lock_by = $4, lock_epoch = lock_epoch + 1, version = version + 1
        WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL
            AND (lock_reason IS NULL OR lock_by = 'user' OR $4 = 'operator') RETURNING {CONVERSATION}""",
        user_id,
        conversation_id,
        reason,
        by,
    )
    if row is None:
        there = await read_conversation(connection, user_id, conversation_id)
        raise RouteLockedError(there.lock_reason or "operator")
    return Conversation(*row)


async def read_message(connection: Connection, user_id: UUID, conversation_id: UUID, message_id: UUID) -> Message:
    """Raises `ConversationNotFoundError` when there is no such message of this user in this conversation."""
    row = await connection.fetchrow(
        f"SELECT {MESSAGE} FROM messages WHERE user_id = $1 AND conversation_id = $2 AND id = $3",
        user_id,
        conversation_id,
        message_id,
    )
    if row is None:
        raise ConversationNotFoundError("There is no such message.")
    return Message(*row)


async def choose_head(connection: Connection, user_id: UUID, conversation_id: UUID, message_id: UUID) -> Conversation:
    """Go on from this message: what followed it stays, as another branch.

    Raises `ConversationNotFoundError`, `RouteLockedError`, and `TurnInProgressError` while a reply is being written in it.
    """
    row = await connection.fetchrow(
        f"""UPDATE conversations SET head_id = $3, version = version + 1
        WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL AND active_turn IS NULL AND lock_reason IS NULL
            AND EXISTS (SELECT FROM messages m WHERE m.user_id = $1 AND m.conversation_id = $2 AND m.id = $3)
        RETURNING {CONVERSATION}""",
        user_id,
        conversation_id,
        message_id,
    )
    if row is None:
        await _refuse_meanwhile(connection, user_id, conversation_id)
        raise ConversationNotFoundError("There is no such message.")
    await keep_to_way(connection, user_id, conversation_id)
    return Conversation(*row)


async def list_messages(
    connection: Connection,
    user_id: UUID,
    conversation_id: UUID,
    limit: int,
    *,
    before: int | None = None,
    after: int | None = None,
) -> list[Message]:
    """Up to `limit` messages in order: the newest ones below `before`, or the oldest ones above `after`."""
    direction = "ASC" if after is not None else "DESC"
    rows = await connection.fetch(
        f"""SELECT {MESSAGE}, reasoning FROM messages
        WHERE user_id = $1 AND conversation_id = $2 AND ($4::bigint IS NULL OR seq < $4) AND ($5::bigint IS NULL OR seq > $5)
        ORDER BY seq {direction} LIMIT $3""",
        user_id,
        conversation_id,
        limit,
        before,
        after,
    )
    messages = [Message(*row) for row in rows]
    return messages if after is not None else messages[::-1]


BRANCH = f"""
WITH RECURSIVE branch AS (
    SELECT {MESSAGE}, 1 AS depth FROM messages WHERE user_id = $1 AND conversation_id = $2 AND id = $3
    UNION ALL
    SELECT m.id, m.conversation_id, m.seq, m.parent_id, m.turn_id, m.role, m.speaker, m.content, m.status, m.created_at, m.continues, depth + 1
    FROM branch b JOIN messages m ON m.user_id = $1 AND m.id = b.parent_id WHERE depth < $4
)
SELECT {MESSAGE} FROM branch ORDER BY seq
"""


async def read_branch(
    connection: Connection, user_id: UUID, conversation_id: UUID, head_id: UUID, limit: int
) -> list[Message]:
    """The last `limit` messages of the branch that ends in `head_id`, in order."""
    return [Message(*row) for row in await connection.fetch(BRANCH, user_id, conversation_id, head_id, limit)]


async def _refuse_meanwhile(connection: Connection, user_id: UUID, conversation_id: UUID) -> None:
    """Raises `RouteLockedError`, or `TurnInProgressError` while a reply is being written in the conversation."""
    there = await read_conversation(connection, user_id, conversation_id)
    if there.lock_reason is not None:
        raise RouteLockedError(there.lock_reason)
    if there.active_turn is not None:
        raise TurnInProgressError(there.active_turn)


IMPORT = """
WITH bumped AS (
    UPDATE conversations SET next_seq = next_seq + cardinality($3::uuid[]), updated_at = now(), head_id = ($3::uuid[])[cardinality($3::uuid[])]
    WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL AND active_turn IS NULL AND lock_reason IS NULL
    RETURNING next_seq - cardinality($3::uuid[]) AS first
), old AS (
    SELECT head_id FROM conversations WHERE user_id = $1 AND id = $2
), message AS (
    INSERT INTO messages (user_id, conversation_id, seq, id, parent_id, role, speaker, content, created_at, external_id, chain)
    SELECT $1, $2, bumped.first + v.n - 1, v.id, coalesce(($3::uuid[])[v.n - 1], $10, old.head_id), v.role, v.speaker,
        v.content, v.created_at, v.external_id, v.chain
    FROM bumped, old, unnest($3::uuid[], $4::text[], $5::text[], $6::text[], $7::timestamptz[], $8::text[], $9::bytea[]) WITH ORDINALITY
        AS v(id, role, speaker, content, created_at, external_id, chain, n)
    RETURNING 1
), work AS (
    INSERT INTO outbox (user_id, conversation_id) SELECT $1, $2 FROM bumped
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET not_before = now(), dispatched_at = NULL
)
SELECT first FROM bumped
"""


async def append_imported(
    connection: Connection,
    user_id: UUID,
    conversation_id: UUID,
    messages: Sequence[ImportedMessage],
    *,
    parent_id: UUID | None = None,
) -> int:
    """Append messages that were said elsewhere, with the times at which they were said; gives the first one's seq.

    They follow `parent_id`, by default the latest message.

    Raises `ConversationNotFoundError`, `RouteLockedError`, and `TurnInProgressError` while a reply is being written in it.
    """
    first = await connection.fetchval(
        IMPORT,
        user_id,
        conversation_id,
        [m.id for m in messages],
        [m.role for m in messages],
        [m.speaker for m in messages],
        [await sealed(connection, user_id, "messages", m.id, m.content) for m in messages],
        [m.created_at for m in messages],
        [m.external_id for m in messages],
        [m.chain for m in messages],
        parent_id,
    )
    if first is None:
        await _refuse_meanwhile(connection, user_id, conversation_id)
        raise ConversationNotFoundError("There is no such conversation.")
    if parent_id is not None:
        await keep_to_way(connection, user_id, conversation_id, fork=parent_id)
    return int(first)


@dataclass(frozen=True, slots=True)
class Linked:
    """A message found by its chain."""

    conversation_id: UUID
    message_id: UUID
    chain: bytes


async def find_by_chain(
    connection: Connection, user_id: UUID, chains: Sequence[Sequence[bytes]], route: str
) -> Linked | None:
    """The message on this route that ends the longest known part of a resent history; each of `chains` is a way of writing
    the same history, with the longest part first.

    The same words can stand in several conversations. One that ends where the history's last message is to follow goes
    before an older one in which that message was said already.
    """
    row = await connection.fetchrow(
        """SELECT m.conversation_id, m.id, m.chain FROM unnest($2::bytea[], $4::int[]) AS v(chain, n)
        JOIN messages m ON m.user_id = $1 AND m.chain = v.chain
        JOIN conversations c ON c.user_id = $1 AND c.id = m.conversation_id AND c.deleted_at IS NULL AND c.route = $3
        ORDER BY CASE WHEN v.n = 2 AND c.head_id = m.id THEN 1 ELSE v.n END, m.created_at DESC LIMIT 1""",
        user_id,
        [chain for way in chains for chain in way],
        route,
        [place for way in chains for place in range(1, len(way) + 1)],
    )
    return None if row is None else Linked(*row)


async def delete_conversation(connection: Connection, user_id: UUID, conversation_id: UUID) -> bool:
    """Remove the conversation with its messages and what was learnt from it alone; what is being written in it is stopped.

    A lock doesn't stop this, whoever locked it: what was said is its owner's to erase.
    """
    await hold_user(connection, user_id)
    deleted = await connection.fetchval(
        """UPDATE conversations SET deleted_at = now(), lock_epoch = lock_epoch + 1, title = '', persona = '', summary = '', active_turn = NULL,
            import_key = NULL WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL RETURNING id""",
        user_id,
        conversation_id,
    )
    if deleted is None:
        return False
    await unlearn(connection, user_id, conversation_id)
    for table in ("episodes", "messages", "outbox", "quarantine"):
        await connection.execute(
            f"DELETE FROM {table} WHERE user_id = $1 AND conversation_id = $2", user_id, conversation_id
        )
    await connection.execute("DELETE FROM profiles WHERE user_id = $1", user_id)
    await connection.execute(
        """UPDATE turns SET checkpoint = '', request = '{}', failure = coalesce(failure, '{"code": "conversation_not_found"}'),
            status = CASE WHEN status = 'running' THEN 'failed' ELSE status END, finished_at = coalesce(finished_at, now())
        WHERE user_id = $1 AND conversation_id = $2""",
        user_id,
        conversation_id,
    )
    return True


SPOKEN_AT = """
SELECT created_at FROM messages WHERE user_id = $1 AND role = 'user' AND created_at <= $2 AND created_at > $2 - $3::interval
ORDER BY created_at DESC
"""


async def spoken_at(connection: Connection, user_id: UUID, until: datetime, within: timedelta) -> list[datetime]:
    """When the user said something, in whichever conversations, the latest first. It looks at all of their messages."""
    return [said_at for (said_at,) in await connection.fetch(SPOKEN_AT, user_id, until, within)]
