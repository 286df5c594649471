"""What is still known once a conversation is deleted: facts that others bear out, and what held before it.

Ask behind a lock on the user's row (`memory.postgres.hold_user`): learning reads what is current behind the same one.
"""

from typing import Any
from uuid import UUID

from memory import words
from memory.postgres import Connection

# sources that a fact took over from one that was merged into it say less than it does, and that one holds again
ELSEWHERE = """
SELECT f.id, f.text, f.slot <> '' AS slotted, s.message_id, s.quote,
    EXISTS (SELECT FROM facts o WHERE o.user_id = $1 AND o.superseded_by = f.id AND o.status = 'corrected') AS corrects
FROM facts f JOIN fact_sources s ON s.user_id = f.user_id AND s.fact_id = f.id AND s.conversation_id <> $2
WHERE f.user_id = $1 AND f.conversation_id = $2 AND NOT EXISTS (
    SELECT FROM facts merged JOIN fact_sources taken ON taken.user_id = $1 AND taken.fact_id = merged.id
    WHERE merged.user_id = $1 AND merged.superseded_by = f.id AND merged.status = 'superseded'
        AND taken.message_id = s.message_id
)
ORDER BY s.said_at DESC, s.message_id DESC
"""

# beside whatever was learnt from that message already
MOVE = """
UPDATE facts f SET conversation_id = s.conversation_id, message_id = s.message_id, source_seq = s.seq, quote = s.quote,
    said_at = s.said_at, ordinal = 1000 + (
        SELECT coalesce(max(o.ordinal), 0) FROM facts o
        WHERE o.user_id = $1 AND o.conversation_id = s.conversation_id AND o.source_seq = s.seq
    )
FROM fact_sources s WHERE f.user_id = $1 AND f.id = $2 AND s.user_id = $1 AND s.fact_id = $2 AND s.message_id = $3
"""

# a fact whose successor goes is followed by that one's successor; where there is none it holds again, but of several
# that excluded each other only the latest
SUCCEED = """
WITH RECURSIVE gone AS (
    SELECT id, superseded_by FROM facts WHERE user_id = $1 AND conversation_id = $2
), later AS (
    SELECT id, id AS last, superseded_by AS heir FROM gone
    UNION
    SELECT later.id, gone.id, gone.superseded_by FROM later JOIN gone ON gone.id = later.heir
), orphan AS (
    SELECT f.id, later.heir, f.valid_to IS NULL AS merged,
        first_value(f.id) OVER (
            PARTITION BY later.last ORDER BY f.valid_to IS NULL DESC, f.valid_from DESC, f.said_at DESC, f.id DESC
        ) AS newest
    FROM later JOIN facts f ON f.user_id = $1 AND f.superseded_by = later.id
    WHERE f.status = 'superseded' AND f.conversation_id <> $2
        AND (later.heir IS NULL OR NOT EXISTS (SELECT FROM gone WHERE gone.id = later.heir))
), settled AS (
    SELECT id, coalesce(heir, CASE WHEN NOT merged AND id <> newest THEN newest END) AS heir FROM orphan
)
UPDATE facts f SET superseded_by = settled.heir,
    status = CASE WHEN settled.heir IS NULL THEN 'active' ELSE f.status END,
    valid_to = CASE WHEN settled.heir IS NOT NULL THEN f.valid_to END
FROM settled WHERE f.user_id = $1 AND f.id = settled.id
"""

CERTAIN = """
UPDATE facts SET status = 'active', uncertain_because = NULL
WHERE user_id = $1 AND status = 'uncertain' AND conversation_id <> $2
    AND uncertain_because IN (SELECT id FROM facts WHERE user_id = $1 AND conversation_id = $2)
"""


async def unlearn(connection: Connection, user_id: UUID, conversation_id: UUID) -> None:
    """Delete what was learnt from a conversation and from no other; what it had replaced holds again."""
    moves: dict[UUID, UUID] = {}
    for row in await connection.fetch(ELSEWHERE, user_id, conversation_id):
        if row["corrects"] or _bears_out(row):
            moves.setdefault(row["id"], row["message_id"])
    await connection.execute(
        "DELETE FROM fact_sources WHERE user_id = $1 AND conversation_id = $2", user_id, conversation_id
    )
    for fact_id, message_id in moves.items():
        await connection.execute(MOVE, user_id, fact_id, message_id)
    await connection.execute(SUCCEED, user_id, conversation_id)
    await connection.execute(CERTAIN, user_id, conversation_id)
    await connection.execute("DELETE FROM facts WHERE user_id = $1 AND conversation_id = $2", user_id, conversation_id)


def _bears_out(row: Any) -> bool:
    """Whether the other conversation says all that the fact does, so that nothing stays that only the deleted one said.

    Of a slot ("lives in", "works as") the value is what counts: the verb may be another.
    """
    text, quote = row["text"], row["quote"]
    spoken = set(words.tokens(quote))
    named = all(name in spoken or any(words.same_name(name, word) for word in spoken) for name in words.names(text))
    said = words.content(text)
    missing = len(said) - words.shared(said, words.content(quote))
    same = words.numbers(text) <= words.numbers(quote) and words.is_denial(text) == words.is_denial(quote)
    return named and same and missing <= (1 if row["slotted"] else 0)
