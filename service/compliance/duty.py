"""What a user must be told while they chat, when it is due, exactly once: by whom of us and in which stream is all one.

A notice is due from a moment that the notices told before determine, and that moment is its key: of two instances
which find the same one due at once, one writes it. A notice belongs to a turn, so that whoever takes the turn over
finds it and tells it if its predecessor could not.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from memory.assurance import ADULT, BRACKET, oldest_by
from memory.postgres import Connection
from memory.transcript import spoken_at
from service.compliance.config import DutyConfig
from service.compliance.crisis_rules import CrisisRules, Detector, detector, load_rules
from service.compliance.texts import FALLBACK, load_texts

DISCLOSURE, BREAK, CRISIS = "ai_disclosure", "break_reminder", "crisis_referral"
SHARDS = 16


@dataclass(frozen=True, slots=True)
class Notice:
    kind: str
    text: str
    due_key: str

    @property
    def data(self) -> dict[str, Any]:
        """Of the stream's event."""
        return {"kind": self.kind, "text": self.text, "id": f"{self.kind} {self.due_key}"}


EVERYWHERE = UUID(int=0)
"""Stands for the conversation in notices that count for all of a user's: a new conversation is no break."""


@dataclass(frozen=True, slots=True)
class _Due:
    kind: str
    text: str
    since: datetime | None
    protocol: str = ""
    everywhere: bool = False

    @property
    def due_key(self) -> str:
        return "first" if self.since is None else f"after {self.since.isoformat()}"


TOLD = f"""
SELECT t.created_at,
    (SELECT max(created_at) FROM notices WHERE user_id = $1 AND conversation_id = $2 AND kind = 'crisis_referral'),
    (SELECT max(created_at) FROM notices WHERE user_id = $1 AND conversation_id = $2 AND kind = 'ai_disclosure'),
    (SELECT max(created_at) FROM notices WHERE user_id = $1 AND conversation_id = $3 AND kind = 'break_reminder'),
    u.birth_date, {BRACKET} AS below
FROM turns t LEFT JOIN users u ON u.user_id = $1 WHERE t.user_id = $1 AND t.id = $4
"""
OF_TURN = """
SELECT kind, text, due_key FROM notices WHERE user_id = $1 AND turn_id = $2
ORDER BY array_position(ARRAY['crisis_referral', 'ai_disclosure', 'break_reminder'], kind)
"""
WRITE = """
WITH written AS (
    INSERT INTO notices (user_id, conversation_id, turn_id, kind, due_key, text, created_at)
    SELECT $1, conversation_id, $2, kind, due_key, text, $4
    FROM unnest($3::uuid[], $5::text[], $6::text[], $7::text[]) AS due(conversation_id, kind, due_key, text)
    ON CONFLICT (user_id, conversation_id, kind, due_key) DO NOTHING RETURNING kind
), counted AS (
    -- numbers for the yearly report outlive the people they count, so they name nobody
    INSERT INTO notice_counts AS c (month, kind, protocol, shard, total)
    SELECT date_trunc('month', $4 AT TIME ZONE 'UTC')::date, due.kind, due.protocol, $9, 1
    FROM unnest($5::text[], $8::text[]) AS due(kind, protocol) JOIN written w ON w.kind = due.kind ORDER BY due.kind
    ON CONFLICT (month, kind, protocol, shard) DO UPDATE SET total = c.total + 1
)
SELECT kind FROM written
"""


@cache
def _texts() -> dict[str, dict[str, str]]:
    return load_texts()


@cache
def _standard_rules() -> tuple[CrisisRules, ...]:
    return load_rules()


OF_MESSAGES = """
SELECT CASE WHEN t.reply_message_id IS NULL THEN t.user_message_id ELSE t.reply_message_id END, n.kind, n.text, n.due_key
FROM notices n JOIN turns t ON t.user_id = n.user_id AND t.id = n.turn_id
WHERE n.user_id = $1 AND n.turn_id = ANY ($2::uuid[]) AND t.status <> 'running'
ORDER BY n.turn_id, array_position(ARRAY['crisis_referral', 'ai_disclosure', 'break_reminder'], n.kind)
"""


async def told_in_turn(connection: Connection, user_id: UUID, turn_id: UUID) -> list[Notice]:
    """What the user was told in this turn's stream."""
    return [Notice(*found) for found in await connection.fetch(OF_TURN, user_id, turn_id)]


async def told_with_messages(
    connection: Connection, user_id: UUID, turn_ids: Collection[UUID]
) -> dict[UUID, list[Notice]]:
    """What the user was told in these turns once they have ended, by the message that it stands beside: the reply, or
    the user's own message where none came."""
    found: dict[UUID, list[Notice]] = {}
    for message_id, *notice in await connection.fetch(OF_MESSAGES, user_id, list(turn_ids)):
        found.setdefault(message_id, []).append(Notice(*notice))
    return found


class Duty:
    """What is due, by the configuration of one service."""

    def __init__(self, config: DutyConfig, *detectors: Detector) -> None:
        """`detectors` are asked beside the rules. Raises `RulesError`: without a crisis protocol no service starts."""
        self.config = config
        self.rules = load_rules(config.crisis_rules) if config.crisis_rules else _standard_rules()
        self._detect = detector(self.rules, *detectors)

    @property
    def suitability(self) -> str:
        return self._text("unsuitable")

    async def due_notices(
        self, connection: Connection, user_id: UUID, conversation_id: UUID, turn_id: UUID, text: str
    ) -> list[Notice]:
        """What the turn's stream must tell besides the reply to `text`, in order.

        Asked again, by whomever, it gives the same.
        """
        row = await connection.fetchrow(TOLD, user_id, conversation_id, EVERYWHERE, turn_id)
        if row is None:
            return []  # the turn was erased meanwhile
        now, referred_at, disclosed_at, reminded_at, born, below = row
        due = self._due(referred_at, disclosed_at, text, now)
        oldest = oldest_by(now.date(), born, below)
        if oldest is not None and oldest < ADULT:
            due += await self._break_for_minor(connection, user_id, reminded_at, now)
        if due:
            await connection.fetch(
                WRITE,
                user_id,
                turn_id,
                [EVERYWHERE if one.everywhere else conversation_id for one in due],
                now,
                [one.kind for one in due],
                [one.due_key for one in due],
                [one.text for one in due],
                [one.protocol for one in due],
                turn_id.int % SHARDS,
            )
        elif now not in {referred_at, disclosed_at, reminded_at}:
            return []  # nothing is due, and nothing was written for this turn before
        return await told_in_turn(connection, user_id, turn_id)

    def _due(self, referred_at: datetime | None, disclosed_at: datetime | None, text: str, now: datetime) -> list[_Due]:
        due = []
        crisis = self._detect(text)
        if crisis is not None and _passed(referred_at, now, self.config.referral_every):
            due.append(_Due(CRISIS, crisis.referral, referred_at, crisis.protocol))
        if _passed(disclosed_at, now, self.config.disclosure_every):
            due.append(_Due(DISCLOSURE, self._text(DISCLOSURE), disclosed_at))
        return due

    async def _break_for_minor(
        self, connection: Connection, user_id: UUID, reminded_at: datetime | None, now: datetime
    ) -> list[_Due]:
        """A reminder after each hour of one sitting, in whichever conversations it was spent. Asked for minors only."""
        config = self.config
        since = now
        for said_at in await spoken_at(connection, user_id, now, config.minor_break_every * 2):
            if since - said_at >= config.sitting_ends_after:
                break
            since = said_at
        if reminded_at is not None:
            since = max(since, reminded_at)
        if now - since < config.minor_break_every:
            return []
        return [_Due(BREAK, self._text(BREAK), since, everywhere=True)]

    def _text(self, kind: str) -> str:
        texts = _texts()
        return texts.get(self.config.language, texts[FALLBACK])[kind]


def _passed(last: datetime | None, now: datetime, every: timedelta) -> bool:
    return last is None or now - last >= every


@dataclass(frozen=True, slots=True)
class Count:
    month: date
    kind: str
    protocol: str
    total: int


async def yearly_report(connection: Connection, year: int) -> list[Count]:
    """How often each notice was given, by month: no users, no texts."""
    rows = await connection.fetch(
        """SELECT month, kind, protocol, sum(total)::bigint FROM notice_counts
        WHERE month >= make_date($1, 1, 1) AND month < make_date($1 + 1, 1, 1) GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
        year,
    )
    return [Count(*row) for row in rows]
