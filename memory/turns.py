"""Accept, claim, renew, commit: the durable side of a turn. What each step decides, it decides in one statement.

An accept that had to wait for the row asks a second time, and one that leaves the way puts aside what lies beside it. The
accept statement is also the gate: owner, route, lock, age and the one running turn are checked in it, on the
locked row, so that no stale copy can let anyone through. Later steps are fenced by the turn's epoch, which only a
claim raises, on the database's clock.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg

from memory.branching import keep_to_way
from memory.chains import keyed, said_digest
from memory.errors import (
    AgeAssuranceRequiredError,
    ConversationNotFoundError,
    HalfDoneError,
    IdempotencyConflictError,
    RouteLockedError,
    TooYoungError,
    TurnInProgressError,
)
from memory.gates import GATED, Gate
from memory.postgres import Connection
from memory.vault import index_key, opened, opened_in, ring_of, sealed, sealed_in

TurnState = Literal["running", "completed", "stopped", "failed"]

TEXTS_OF_REQUEST = ("instructions",)
"""Of a turn's options those that hold words; the rest is names and numbers."""


TITLE = 60
"""Characters of the first message that a conversation without a title is called by."""


@dataclass(frozen=True, slots=True)
class NewTurn:
    user_id: UUID
    conversation_id: UUID
    turn_id: UUID
    message_id: UUID
    content: str
    fingerprint: bytes
    """Digest of everything that makes the request what it is; the same key with another digest is a conflict."""
    client_message_id: str | None = None
    speaker: str | None = None
    request: dict[str, Any] = field(default_factory=dict)
    parent_id: UUID | None = None
    """The message that this one answers; None for the latest. Another one starts a branch."""
    at_root: bool = False
    """True begins the conversation anew beside its first message; `parent_id` is then None."""
    answers: UUID | None = None
    """A message of the user's that is answered once more; `content` and `message_id` are then its own."""
    prefix: str = ""
    """Text of a reply to `answers` that this turn goes on with; `request` names the reply."""
    leased: bool = True
    """False leaves the turn to a runner outside this process."""


@dataclass(frozen=True, slots=True)
class Accepted:
    turn_id: UUID
    message_id: UUID
    seq: int
    created_at: datetime
    route: str
    lock_epoch: int
    parent_id: UUID | None
    version: int
    """The conversation's: a copy of its past that was made of another one is out of date."""
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class ClaimedTurn:
    """A turn whose writer this process has become."""

    user_id: UUID
    turn_id: UUID
    conversation_id: UUID
    user_message_id: UUID
    epoch: int
    attempts: int
    checkpoint: str
    request: dict[str, Any]
    route: str
    created_at: datetime
    upstream: dict[str, Any] | None = None
    """Where the model server can be asked for the rest of the reply that it is writing, if it can."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A finished reply, ready to be committed."""

    message_id: UUID
    text: str
    finish_reason: str
    backend: str
    model: str
    scripted: bool
    usage: dict[str, int] | None = None
    speaker: str | None = None
    stopped: bool = False
    reasoning: str = ""
    """What the model thought, where that is to be kept. It stands beside the reply, and nothing is ever made of it."""


@dataclass(frozen=True, slots=True)
class Committed:
    """Where a reply was stored, and which version its conversation had then."""

    seq: int
    version: int


TURN_OF_BUMPED = """
turn AS (
    INSERT INTO turns (user_id, id, conversation_id, user_message_id, status, lease_until, route, lock_epoch, request, epoch, attempts{more})
    SELECT $1, $7, $2, $8, 'running', CASE WHEN $10 THEN clock_timestamp() + $9 * interval '1 second' END, route, lock_epoch, $11,
        CASE WHEN $10 THEN 1 ELSE 0 END, CASE WHEN $10 THEN 1 ELSE 0 END{values}
    FROM bumped
), work AS (
    -- the reply will want to be learnt from too; if it never comes, this is when the message is learnt from alone
    INSERT INTO outbox (user_id, conversation_id, not_before) SELECT $1, $2, now() + interval '20 seconds' FROM bumped
    ON CONFLICT (user_id, conversation_id) DO NOTHING
)
SELECT c.route, c.lock_reason, c.lock_epoch, c.active_turn, c.version, gate.assured, gate.young, gate.fresh, message.seq, message.created_at, message.parent_id,
    again.id AS again_id, again.seq AS again_seq, again.turn_id AS again_turn, again.fingerprint AS again_fingerprint,
    again.created_at AS again_created_at
FROM c CROSS JOIN gate LEFT JOIN message ON true LEFT JOIN again ON true"""

ACCEPT = f"""
WITH {GATED.format(others="")}, parent AS (
    SELECT m.id, m.chain FROM c JOIN messages m ON m.user_id = $1 AND m.conversation_id = $2
        AND m.id = coalesce($17::uuid, CASE WHEN NOT $18 THEN c.head_id END)
), bumped AS (
    UPDATE conversations t SET next_seq = t.next_seq + 1, head_id = $8, active_turn = $7, updated_at = now(),
        title = CASE WHEN t.title = '' THEN $19 ELSE t.title END
    FROM c, gate
    WHERE t.user_id = $1 AND t.id = c.id AND gate.open AND c.lock_reason IS NULL AND c.active_turn IS NULL
        AND NOT EXISTS (SELECT FROM again) AND ($17::uuid IS NULL OR EXISTS (SELECT FROM parent))
    RETURNING t.next_seq - 1 AS seq, c.route, c.lock_epoch
), message AS (
    INSERT INTO messages (user_id, conversation_id, seq, id, parent_id, turn_id, role, speaker, content, client_message_id, fingerprint, chain)
    SELECT $1, $2, bumped.seq, $8, parent.id, $7, 'user', $14, $13, $3, $15,
        CASE WHEN parent.id IS NOT NULL AND parent.chain IS NULL THEN NULL
            WHEN coalesce(length(parent.chain) = 32, $20::bytea IS NULL) THEN sha256(coalesce(parent.chain, ''::bytea) || $16)
            ELSE substr(sha256(coalesce(parent.chain, ''::bytea) || $20::bytea), 1, 24) END
    FROM bumped LEFT JOIN parent ON true
    RETURNING seq, created_at, parent_id
), {TURN_OF_BUMPED.format(more="", values="")}
"""

# a message that is answered once more has its key already: this turn's own key stands in the turn
KEYED = """UNION ALL
    SELECT u.id, u.seq, t.id, t.fingerprint, u.created_at FROM turns t JOIN messages u ON u.user_id = $1 AND u.id = t.user_message_id
    WHERE t.user_id = $1 AND t.conversation_id = $2 AND t.idempotency_key = $3"""

ANSWER_AGAIN = f"""
WITH {GATED.format(others=KEYED)}, message AS (
    SELECT seq, created_at, parent_id FROM messages WHERE user_id = $1 AND conversation_id = $2 AND id = $8 AND role = 'user'
), bumped AS (
    -- the way goes on from here when there is a reply: one that fails leaves it as it was
    UPDATE conversations t SET active_turn = $7, updated_at = now() FROM c, gate
    WHERE t.user_id = $1 AND t.id = c.id AND gate.open AND c.lock_reason IS NULL AND c.active_turn IS NULL AND EXISTS (SELECT FROM message)
        AND NOT EXISTS (SELECT FROM again)
    RETURNING c.route, c.lock_epoch
), {TURN_OF_BUMPED.format(more=", idempotency_key, fingerprint, checkpoint", values=", $3, $13, $14")}
"""


async def accept(connection: Connection, turn: NewTurn, gate: Gate, lease_seconds: float) -> Accepted:
    """Write the user's message, its turn and the work it causes; or refuse, and write nothing.

    Raises a `TurnRefusedError`. The caller commits: only then is the message acknowledged.
    """
    common = (
        turn.user_id,
        turn.conversation_id,
        turn.client_message_id,
        list(gate.routes),
        list(gate.needs),
        list(gate.needs.values()),
        turn.turn_id,
        turn.answers or turn.message_id,
        lease_seconds,
        turn.leased,
        await sealed_in(connection, turn.user_id, "turns", turn.turn_id, turn.request, TEXTS_OF_REQUEST),
        gate.least_ages,
    )
    own: list[object]
    index = await index_key(connection, turn.user_id)
    fingerprint = keyed(index, turn.user_id, turn.fingerprint) or turn.fingerprint
    if turn.answers is not None:
        statement = ANSWER_AGAIN
        own = [fingerprint, await sealed(connection, turn.user_id, "turns", turn.turn_id, turn.prefix)]
    else:
        statement = ACCEPT
        own = [
            await sealed(connection, turn.user_id, "messages", turn.message_id, turn.content),
            turn.speaker,
            fingerprint,
            said_digest("user", turn.content),
            turn.parent_id,
            turn.at_root,
            await sealed(connection, turn.user_id, "conversations", turn.conversation_id, turn.content[:TITLE]),
            keyed(index, turn.user_id, said_digest("user", turn.content)),
        ]
    row = await connection.fetchrow(statement, *common, *own)
    if row is not None and not row["fresh"]:
        # it has the row now, so that a second look sees whatever it waited for; nothing was written by the first
        row = await connection.fetchrow(statement, *common, *own)
    if row is None:
        raise ConversationNotFoundError("There is no such conversation.")
    accepted = _answered(turn, row, {fingerprint, turn.fingerprint})
    if (turn.parent_id is not None or turn.at_root) and not accepted.duplicate and turn.answers is None:
        await keep_to_way(connection, turn.user_id, turn.conversation_id, fork=turn.parent_id)
    return accepted


def _answered(turn: NewTurn, row: asyncpg.Record, fingerprints: set[bytes]) -> Accepted:
    if row["again_id"] is not None:
        if row["again_fingerprint"] not in fingerprints or turn.answers not in (None, row["again_id"]):
            raise IdempotencyConflictError("This client_message_id was used for another request.")
        return Accepted(
            row["again_turn"],
            row["again_id"],
            row["again_seq"],
            row["again_created_at"],
            row["route"],
            row["lock_epoch"],
            None,
            row["version"],
            duplicate=True,
        )
    if row["lock_reason"] is not None:
        raise RouteLockedError(row["lock_reason"])
    if row["young"]:
        raise TooYoungError("The user is known to be younger than the route allows.")
    if not row["assured"]:
        raise AgeAssuranceRequiredError(f"The route {row['route']!r} asks for an age assurance.")
    if row["active_turn"] is not None:
        raise TurnInProgressError(row["active_turn"])
    if row["seq"] is None:
        raise ConversationNotFoundError("There is no such message in this conversation.")
    message_id = turn.answers or turn.message_id
    return Accepted(
        turn.turn_id,
        message_id,
        row["seq"],
        row["created_at"],
        row["route"],
        row["lock_epoch"],
        row["parent_id"],
        row["version"],
    )


CLAIM = """
UPDATE turns t SET epoch = t.epoch + 1, attempts = t.attempts + 1, lease_until = clock_timestamp() + $1 * interval '1 second'
WHERE (t.user_id, t.id) IN (
    SELECT user_id, id FROM turns
    WHERE status = 'running' AND (lease_until IS NULL OR lease_until < clock_timestamp() - $5 * interval '1 second')
        AND ($3::uuid IS NULL OR id = $3) AND id <> ALL($4::uuid[])
        AND NOT EXISTS (SELECT FROM user_keys k WHERE k.user_id = turns.user_id AND k.master <> ALL($6::text[]))
    ORDER BY lease_until NULLS FIRST LIMIT $2 FOR UPDATE SKIP LOCKED
)
RETURNING t.user_id, t.id, t.conversation_id, t.user_message_id, t.epoch, t.attempts, t.checkpoint, t.request, t.route, t.created_at,
    t.upstream
"""


async def claim(
    connection: Connection,
    lease_seconds: float,
    limit: int,
    turn_id: UUID | None = None,
    *,
    own: Sequence[UUID] = (),
    grace: float = 0.0,
) -> list[ClaimedTurn]:
    """Become the writer of turns that nobody writes: new ones left to a runner, or those whose writer's lease ran out.

    Turns that this process writes already are its `own`: a lease that ran out because the process was held up is renewed,
    not taken over. `grace` leaves turns to others for so many seconds more; those of users whose master key isn't here, while
    it is being changed, are left to who has it. Words are sealed still (`open_claimed`): one user's that don't open must not
    keep all others' turns from being claimed.
    """
    vault = ring_of(connection).vault
    masters = [] if vault is None else list(vault.names)
    rows = await connection.fetch(CLAIM, lease_seconds, limit, turn_id, list(own), grace, masters)
    return [ClaimedTurn(*row) for row in rows]


async def open_claimed(connection: Connection, turn: ClaimedTurn) -> ClaimedTurn:
    """The turn with its words. Raises `KeyUnavailableError`."""
    return replace(
        turn,
        checkpoint=await opened(connection, turn.user_id, turn.checkpoint),
        request=await opened_in(connection, turn.user_id, turn.request, TEXTS_OF_REQUEST),
    )


COMMIT = """
WITH done AS (
    UPDATE turns SET status = $4, finished_at = clock_timestamp(), lease_until = NULL, checkpoint = '', reply_message_id = $5,
        finish_reason = $7, backend = $8, model = $9, scripted = $10, usage = $11
    WHERE user_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
    RETURNING conversation_id, user_message_id, (request -> 'continues' ->> 'message_id')::uuid AS continues
), bumped AS (
    UPDATE conversations c SET next_seq = c.next_seq + 1, head_id = $5, active_turn = NULL, updated_at = now()
    FROM done WHERE c.user_id = $1 AND c.id = done.conversation_id
    RETURNING c.next_seq - 1 AS seq, c.version
), message AS (
    INSERT INTO messages (user_id, conversation_id, seq, id, parent_id, turn_id, role, speaker, content, status, chain, continues, reasoning)
    SELECT $1, done.conversation_id, bumped.seq, $5, done.user_message_id, $2, 'assistant', $12, $6,
        CASE WHEN $4 = 'stopped' THEN 'stopped' WHEN $7 = 'length' THEN 'cut' ELSE 'complete' END,
        CASE WHEN length(u.chain) = 32 THEN sha256(u.chain || $13) ELSE substr(sha256(u.chain || $15::bytea), 1, 24) END,
        done.continues, $14
    FROM bumped, done JOIN messages u ON u.user_id = $1 AND u.id = done.user_message_id
    RETURNING seq
), work AS (
    INSERT INTO outbox (user_id, conversation_id) SELECT $1, conversation_id FROM done
    ON CONFLICT (user_id, conversation_id) DO UPDATE SET not_before = now(), dispatched_at = NULL
)
SELECT (SELECT seq FROM message) AS seq, (SELECT version FROM bumped) AS version, EXISTS (SELECT FROM done) AS ended, was.*
FROM (VALUES (1)) AS one LEFT JOIN (
    -- as it was before this statement
    SELECT c.id AS conversation_id, done.user_message_id, c.head_id, head.parent_id
    FROM done JOIN conversations c ON c.user_id = $1 AND c.id = done.conversation_id
    LEFT JOIN messages head ON head.user_id = $1 AND head.id = c.head_id
) AS was ON true
"""
COMMITTED_BEFORE = """
SELECT m.seq, c.version FROM messages m JOIN conversations c ON c.user_id = m.user_id AND c.id = m.conversation_id
WHERE m.user_id = $1 AND m.id = $2
"""


async def commit(connection: Connection, user_id: UUID, turn_id: UUID, epoch: int, reply: Reply) -> Committed | None:
    """Store the reply, once, and say where; None when the turn is another writer's by now.

    Asking again after a commit whose answer was lost gives the same seq.
    """
    row = await connection.fetchrow(
        COMMIT,
        user_id,
        turn_id,
        epoch,
        "stopped" if reply.stopped else "completed",
        reply.message_id,
        await sealed(connection, user_id, "messages", reply.message_id, reply.text),
        reply.finish_reason,
        reply.backend,
        reply.model,
        reply.scripted,
        reply.usage,
        reply.speaker,
        said_digest("assistant", reply.text),
        await sealed(connection, user_id, "messages", reply.message_id, reply.reasoning),
        keyed(await index_key(connection, user_id), user_id, said_digest("assistant", reply.text)),
    )
    assert row is not None  # noqa: S101  it has one whatever was there
    if row["seq"] is not None and row["head_id"] != row["user_message_id"]:
        # the message had been answered before, and the talk had gone on: all that is another branch now
        beside = row["parent_id"] == row["user_message_id"]
        fork = row["user_message_id"] if beside else None
        await keep_to_way(connection, user_id, row["conversation_id"], fork=fork)
    if row["seq"] is None and row["ended"]:
        raise HalfDoneError("The turn was ended without its reply; the transaction must not be.")
    if row["seq"] is None:
        row = await connection.fetchrow(COMMITTED_BEFORE, user_id, reply.message_id)
    return None if row is None else Committed(row["seq"], row["version"])


FAIL = """
WITH done AS (
    UPDATE turns SET status = 'failed', finished_at = clock_timestamp(), lease_until = NULL, failure = $4, checkpoint = $5,
        usage = $6
    WHERE user_id = $1 AND id = $2 AND epoch = $3 AND status = 'running' RETURNING conversation_id
), freed AS (
    UPDATE conversations c SET active_turn = NULL FROM done WHERE c.user_id = $1 AND c.id = done.conversation_id AND c.active_turn = $2
), work AS (
    UPDATE outbox o SET not_before = now(), dispatched_at = NULL FROM done WHERE o.user_id = $1 AND o.conversation_id = done.conversation_id
)
SELECT conversation_id FROM done
"""


async def fail(
    connection: Connection,
    user_id: UUID,
    turn_id: UUID,
    epoch: int,
    failure: dict[str, Any],
    shown: str,
    usage: dict[str, int] | None = None,
) -> bool:
    """End the turn without a reply; what was shown of one is kept for audit, never learnt from. False: another's by now.

    `usage` is what it costs its user all the same.
    """
    kept = await sealed(connection, user_id, "turns", turn_id, shown)
    return await connection.fetchval(FAIL, user_id, turn_id, epoch, failure, kept, usage) is not None


REQUEST_STOP = """
UPDATE turns SET stop_requested = true WHERE user_id = $1 AND conversation_id = $2 AND id = $3 AND status = 'running' RETURNING id
"""


async def request_stop(connection: Connection, user_id: UUID, conversation_id: UUID, turn_id: UUID) -> bool:
    """Ask the turn's writer, wherever it is, to stop. False when the turn has ended already."""
    return await connection.fetchval(REQUEST_STOP, user_id, conversation_id, turn_id) is not None


@dataclass(frozen=True, slots=True)
class TurnStatus:
    turn_id: UUID
    status: TurnState


async def latest_turn(
    connection: Connection, user_id: UUID, conversation_id: UUID, message_id: UUID
) -> TurnStatus | None:
    """The last turn that answered this message of the user's."""
    row = await connection.fetchrow(
        """SELECT id, status FROM turns WHERE user_id = $1 AND conversation_id = $2 AND user_message_id = $3
        ORDER BY created_at DESC LIMIT 1""",
        user_id,
        conversation_id,
        message_id,
    )
    return None if row is None else TurnStatus(*row)


TURN = """
SELECT t.id, t.conversation_id, t.user_message_id, t.reply_message_id, t.status, t.epoch, t.route, t.backend, t.model, t.scripted,
    t.finish_reason, t.usage, t.failure, t.created_at, t.finished_at, t.checkpoint, m.content AS reply, m.reasoning, m.seq AS reply_seq,
    u.seq AS user_seq, u.created_at AS user_created_at, t.lease_until IS NOT NULL AND t.lease_until < clock_timestamp() AS orphaned,
    (SELECT c.version FROM conversations c WHERE c.user_id = t.user_id AND c.id = t.conversation_id) AS version
FROM turns t JOIN messages u ON u.user_id = t.user_id AND u.id = t.user_message_id
LEFT JOIN messages m ON m.user_id = t.user_id AND m.id = t.reply_message_id
WHERE t.user_id = $1 AND t.conversation_id = $2 AND t.id = $3
"""


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn as PostgreSQL knows it; `reply` is None until it was committed."""

    id: UUID
    conversation_id: UUID
    user_message_id: UUID
    reply_message_id: UUID | None
    status: TurnState
    epoch: int
    route: str
    backend: str | None
    model: str | None
    scripted: bool
    finish_reason: str | None
    usage: dict[str, int] | None
    failure: dict[str, Any] | None
    created_at: datetime
    finished_at: datetime | None
    checkpoint: str
    reply: str | None
    reasoning: str | None
    reply_seq: int | None
    user_seq: int
    user_created_at: datetime
    orphaned: bool
    version: int
    """The conversation's, now."""


async def read_turn(connection: Connection, user_id: UUID, conversation_id: UUID, turn_id: UUID) -> StoredTurn:
    """Raises `ConversationNotFoundError` when there is no such turn of this user."""
    row = await connection.fetchrow(TURN, user_id, conversation_id, turn_id)
    if row is None:
        raise ConversationNotFoundError("There is no such turn.")
    return StoredTurn(*row)
