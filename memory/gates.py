"""The gate of a route: what accepting a turn, taking it over and streaming it ask in the same words.

Each asks PostgreSQL in the statement that acts on the answer, so that no stale copy of anything can let anyone through.
"""

from dataclasses import dataclass, field
from uuid import UUID

from memory.postgres import Connection


@dataclass(frozen=True, slots=True)
class Gate:
    """What the configuration says about routes: which exist, and which age assurance each needs."""

    routes: tuple[str, ...]
    needs: dict[str, str] = field(default_factory=dict)
    """Route to the level it needs; a route that isn't here needs none."""
    ages: dict[str, int] = field(default_factory=dict)
    """Route to the age below which a user who is known to be younger is refused."""

    @property
    def least_ages(self) -> list[int]:
        """In the order of `routes`."""
        return [self.ages.get(route, 0) for route in self.routes]


TOO_YOUNG = """EXISTS (
    SELECT FROM users u JOIN unnest({routes}::text[], {ages}::int[]) AS least(route, age) ON least.route = c.route
    WHERE u.user_id = $1 AND least.age > 0 AND (
        u.birth_date > ((now() AT TIME ZONE 'UTC')::date - make_interval(years => least.age))::date
        OR (u.known_minor AND (u.known_below IS NOT NULL OR u.birth_date IS NULL) AND coalesce(u.known_below, 18) <= least.age)
    )
)"""

GATED = f"""
c AS (
    SELECT id, route, lock_reason, lock_epoch, active_turn, head_id, version FROM conversations
    WHERE user_id = $1 AND id = $2 AND deleted_at IS NULL FOR UPDATE
), again AS (
    SELECT id, seq, turn_id, fingerprint, created_at FROM messages
    WHERE user_id = $1 AND conversation_id = $2 AND client_message_id = $3
    {{others}}
), asked AS (
    SELECT c.route = ANY($4::text[]) AND (
        NOT c.route = ANY($5::text[])
        OR EXISTS (
            SELECT FROM age_assurances a JOIN unnest($5::text[], $6::text[]) AS need(route, level) ON need.level = a.level
            WHERE a.user_id = $1 AND need.route = c.route AND a.revoked_at IS NULL AND a.expires_at > now()
        )
    ) AS assured,
    {TOO_YOUNG.format(routes="$4", ages="$12")} AS young,
    -- a revocation that ended while this waited for the row has raised its epoch: what was seen of the user is too old
    c.lock_epoch = (SELECT seen.lock_epoch FROM conversations seen WHERE seen.user_id = $1 AND seen.id = $2) AS fresh FROM c
), gate AS (
    SELECT assured, young, fresh, assured AND NOT young AND fresh AS open FROM asked
)"""


MAY_CONTINUE = f"""
SELECT c.lock_reason IS NULL AND c.lock_epoch = t.lock_epoch AND c.route = t.route AND c.route = ANY($3::text[])
AND NOT {TOO_YOUNG.format(routes="$3", ages="$6")} AND (
    NOT c.route = ANY($4::text[])
    OR EXISTS (
        SELECT FROM age_assurances a JOIN unnest($4::text[], $5::text[]) AS need(route, level) ON need.level = a.level
        WHERE a.user_id = $1 AND need.route = c.route AND a.revoked_at IS NULL AND a.expires_at > now()
    )
)
FROM turns t JOIN conversations c ON c.user_id = t.user_id AND c.id = t.conversation_id
WHERE t.user_id = $1 AND t.id = $2 AND c.deleted_at IS NULL
"""


async def may_continue(connection: Connection, user_id: UUID, turn_id: UUID, gate: Gate) -> bool:
    """Whether the gate that let the turn in would still let it go on."""
    args = (list(gate.routes), list(gate.needs), list(gate.needs.values()), gate.least_ages)
    return bool(await connection.fetchval(MAY_CONTINUE, user_id, turn_id, *args))


MAY_STREAM = f"""
SELECT NOT {TOO_YOUNG.format(routes="$2", ages="$5")} AND (
    NOT c.route = ANY($3::text[])
    OR EXISTS (
        SELECT FROM age_assurances a JOIN unnest($3::text[], $4::text[]) AS need(route, level) ON need.level = a.level
        WHERE a.user_id = $1 AND need.route = c.route AND a.revoked_at IS NULL AND a.expires_at > now()
    )
) FROM (SELECT $6::text AS route) AS c
"""


async def may_stream(connection: Connection, user_id: UUID, route: str, gate: Gate) -> bool:
    """Whether the user may be streamed a reply of this route now, also one that was written before."""
    if route not in gate.needs and route not in gate.ages:
        return True
    args = (list(gate.routes), list(gate.needs), list(gate.needs.values()), gate.least_ages)
    return bool(await connection.fetchval(MAY_STREAM, user_id, *args, route))
