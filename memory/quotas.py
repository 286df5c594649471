"""How many model tokens a user may cause in a day, counted from the turns themselves.

A running turn counts as its estimate from the moment it is accepted, an ended one as what its backend reported: there
is no reservation to lose when a process dies, and none to give back. A turn that failed before anything was shown costs
nothing; one that failed later costs what was shown, or whoever locks their conversation near each reply's end reads for
nothing; and one that failed because its user deleted its conversation costs its estimate, since nothing is kept of it.
"""

from uuid import UUID

from memory.errors import LongTermMemoryError
from memory.postgres import Connection

PROMPT_ESTIMATE = 800
"""Tokens that a prompt is taken to have until its backend has counted them."""


def estimated(shown: int) -> dict[str, int] | None:
    """The usage of a turn that failed after so many characters of its reply were shown; None when none were."""
    return {"prompt_tokens": PROMPT_ESTIMATE, "completion_tokens": -(-shown // 4)} if shown > 0 else None


class QuotaExceededError(LongTermMemoryError):
    """The user's tokens for today are used up."""

    def __init__(self, seconds: float) -> None:
        super().__init__("The tokens for today are used up.")
        self.seconds = seconds
        """Until the next day begins, in UTC."""


# One user's turns are judged one after the other: without the lock, all of fifty that come at once would fit.
ALONE = "SELECT pg_advisory_xact_lock(hashtextextended($1::text, 7277076))"
USED = """
SELECT coalesce(sum(
    CASE WHEN status = 'running' OR usage IS NULL
            AND (status <> 'failed' OR coalesce(failure ->> 'code', '') = 'conversation_not_found') THEN $2
        ELSE coalesce((usage ->> 'prompt_tokens')::bigint + (usage ->> 'completion_tokens')::bigint, 0) END
), 0)::bigint AS used, extract(epoch FROM date_trunc('day', now(), 'UTC') + interval '1 day' - now())::float8 AS seconds
FROM turns WHERE user_id = $1 AND created_at >= date_trunc('day', now(), 'UTC')
"""


async def hold_quota(connection: Connection, user_id: UUID, tokens_per_day: int, estimate: int) -> None:
    """Raise `QuotaExceededError` unless today's turns, the one just accepted in this transaction included, fit.

    `estimate` stands for a turn whose tokens nobody has counted (yet).
    """
    await connection.execute(ALONE, str(user_id))
    row = await connection.fetchrow(USED, user_id, estimate)
    assert row is not None  # noqa: S101  an aggregate has a row
    if row["used"] > tokens_per_day:
        raise QuotaExceededError(row["seconds"])
