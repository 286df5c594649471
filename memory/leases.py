"""The leases of turns that are being written: renewed on the database's clock, fenced by the turn's epoch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any
from uuid import UUID

from memory.postgres import Connection
from memory.vault import sealed


@dataclass(frozen=True, slots=True)
class Renewal:
    turn_id: UUID
    stop_requested: bool
    gate_closed: bool
    """The conversation was locked or deleted, or its assurance withdrawn or run out, since the turn was accepted."""
    written: bool
    """False: somebody holds the row, so that neither the lease nor the checkpoint was written."""


RENEW = """
WITH held AS MATERIALIZED (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::text[]) AS v(user_id, id, epoch, checkpoint)
), mine AS MATERIALIZED (
    -- a row that an erasure holds for a while keeps no other lease waiting
    SELECT held.id, held.checkpoint, free.place FROM held CROSS JOIN LATERAL (
        SELECT t.ctid AS place FROM turns t
        WHERE t.user_id = held.user_id AND t.id = held.id AND t.epoch = held.epoch AND t.status = 'running'
        FOR NO KEY UPDATE SKIP LOCKED
    ) AS free
), renewed AS (
    UPDATE turns t SET lease_until = greatest(t.lease_until, clock_timestamp() + $5 * interval '1 second'),
        checkpoint = coalesce(mine.checkpoint, t.checkpoint),
        -- a writer that gets on is no poison, however many had to follow it on a machine that starves them
        attempts = CASE WHEN mine.checkpoint IS NULL THEN t.attempts ELSE 1 END
    FROM mine WHERE t.ctid = mine.place
)
SELECT t.id, t.stop_requested, c.deleted_at IS NOT NULL OR c.lock_epoch <> t.lock_epoch OR (
    t.route = ANY($6::text[]) AND NOT EXISTS (
        SELECT FROM age_assurances a JOIN unnest($6::text[], $7::text[]) AS need(route, level) ON need.level = a.level
        WHERE a.user_id = t.user_id AND need.route = t.route AND a.revoked_at IS NULL AND a.expires_at > clock_timestamp()
    )
), t.id IN (SELECT id FROM mine) FROM held
JOIN turns t ON t.user_id = held.user_id AND t.id = held.id AND t.epoch = held.epoch AND t.status = 'running'
JOIN conversations c ON c.user_id = t.user_id AND c.id = t.conversation_id
"""


async def renew(
    connection: Connection,
    held: Sequence[tuple[UUID, UUID, int, str | None]],
    lease_seconds: float,
    needs: Mapping[str, str] = MappingProxyType({}),
) -> list[Renewal]:
    """Renew the leases of (user_id, turn_id, epoch, checkpoint or None); a turn missing from the answer is another's now.

    One whose row somebody holds locked is in the answer and is renewed the next time.
    `needs` names the age assurance of each route that asks for one: it may run out while a reply is being written.
    """
    # losing a renewal or a checkpoint to a crash costs a take-over, never text: no need to wait for the disk
    # A plan kept from when the table was small compared every reply with every other until the next ANALYZE: it is made
    # for what there is now.
    await connection.execute("SET LOCAL synchronous_commit = off; SET LOCAL plan_cache_mode = force_custom_plan")
    users, ids, epochs, shown = zip(*held, strict=True)
    checkpoints = [
        None if text is None else await sealed(connection, user_id, "turns", turn_id, text)
        for user_id, turn_id, text in zip(users, ids, shown, strict=True)
    ]
    routes = (list(needs), list(needs.values()))
    rows = await connection.fetch(RENEW, list(users), list(ids), list(epochs), checkpoints, lease_seconds, *routes)
    return [Renewal(*row) for row in rows]


ENDED = "SELECT EXISTS (SELECT FROM turns WHERE user_id = $1 AND id = $2 AND epoch = $3 AND status <> 'running')"


async def ended(connection: Connection, user_id: UUID, turn_id: UUID, epoch: int) -> bool:
    """Whether this very epoch has ended the turn: it has no lease to renew then, and nobody took it away."""
    return bool(await connection.fetchval(ENDED, user_id, turn_id, epoch))


async def any_running(connection: Connection) -> bool:
    """Whether a reply is being written, of any user. Ask over `Database.system`."""
    return bool(await connection.fetchval("SELECT EXISTS (SELECT FROM turns WHERE status = 'running')"))


NOTE_UPSTREAM = """
UPDATE turns SET upstream = $4 WHERE user_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
"""


async def note_upstream(
    connection: Connection, user_id: UUID, turn_id: UUID, epoch: int, upstream: dict[str, Any]
) -> None:
    """Keep where the model server can be asked for the rest of the reply; nothing happens when the turn is another's."""
    await connection.execute(NOTE_UPSTREAM, user_id, turn_id, epoch, upstream)


RELEASE = """
UPDATE turns SET lease_until = clock_timestamp() - interval '1 millisecond', checkpoint = $4
WHERE user_id = $1 AND id = $2 AND epoch = $3 AND status = 'running'
"""


async def release(connection: Connection, user_id: UUID, turn_id: UUID, epoch: int, shown: str) -> None:
    """Give the turn up so that any instance may claim it at once."""
    kept = await sealed(connection, user_id, "turns", turn_id, shown)
    await connection.execute(RELEASE, user_id, turn_id, epoch, kept)
