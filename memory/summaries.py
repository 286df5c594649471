"""Two short texts for prompts, made of what is known: a conversation's rolling summary, and a user's profile.

Neither is ever a source of facts: both are made from messages and facts, which is where facts come from. Losing one
loses nothing; it is written anew.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from memory import prompts, tombstones, words
from memory.branching import ASIDE
from memory.errors import ReasonerRefusedError, ReasonerUnavailableError
from memory.extraction import NonsenseError, Said, dialogue, json_in
from memory.metrics import SUMMARIES
from memory.ports import Reasoner
from memory.postgres import Connection, Database
from memory.refusals import refusal
from memory.vault import sealed

PROMPT = "summary-1"
SUMMARY_CHARS = 900
SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["summary"],
    "properties": {"summary": {"type": "string", "maxLength": SUMMARY_CHARS}},
}


@dataclass(frozen=True, slots=True)
class SummaryConfig:
    every: int = 24
    """Messages beyond the summary from which on it is written anew."""
    keep: int = 8
    """The newest messages stay out of it: they stand in the prompt themselves."""
    chunk: int = 40
    """Messages read at once; an imported conversation takes several rounds."""


READ = """
SELECT c.summary, c.summary_seq, c.next_seq - 1 AS last, c.route, c.version FROM conversations c
WHERE c.user_id = $1 AND c.id = $2 AND c.deleted_at IS NULL AND c.next_seq - 1 - c.summary_seq >= $3
"""
# what lies beside the way was not said in this conversation; it is put aside before it is learnt from, and so before this
# what was learnt from and is no episode any more was forgotten, though it may be kept to read
LINES = f"""
SELECT seq, id, role, speaker, content, created_at FROM messages m
WHERE user_id = $1 AND conversation_id = $2 AND seq > $3 AND seq <= $4 AND role <> 'system' AND NOT EXISTS (
    SELECT FROM episodes e WHERE e.user_id = $1 AND e.message_id = m.id AND {ASIDE}
) AND (
    seq > (SELECT c.learnt_seq FROM conversations c WHERE c.user_id = $1 AND c.id = $2)
    OR EXISTS (SELECT FROM episodes e WHERE e.user_id = $1 AND e.message_id = m.id)
) ORDER BY seq LIMIT $5
"""
WRITE = """
UPDATE conversations SET summary = $5, summary_seq = $4, version = version + 1
WHERE user_id = $1 AND id = $2 AND summary_seq = $3 AND version = $6 AND deleted_at IS NULL RETURNING 1
"""


async def summarise(
    database: Database, reasoner: Reasoner, user_id: UUID, conversation_id: UUID, config: SummaryConfig | None = None
) -> bool:
    """Bring a conversation's summary forward by one chunk, if enough was said since; says whether there is more to do.

    A model that is away changes nothing. One that answers nonsense moves the summary on without the chunk: its
    messages are still recalled as episodes.
    """
    config = config or SummaryConfig()
    async with database.as_user(user_id) as connection:
        row = await connection.fetchrow(READ, user_id, conversation_id, config.every)
        if row is None:
            return False
        upto = row["last"] - config.keep
        found = await connection.fetch(LINES, user_id, conversation_id, row["summary_seq"], upto, config.chunk)
    lines = [Said(*line) for line in found]
    last = lines[-1].seq if len(lines) == config.chunk else upto
    try:
        text = await _written(reasoner, row["summary"], lines)
        SUMMARIES.labels("written").inc()
    except ReasonerUnavailableError:
        SUMMARIES.labels("postponed").inc()
        return False
    except (NonsenseError, ReasonerRefusedError):
        SUMMARIES.labels("nonsense").inc()
        text = row["summary"]
    async with database.as_user(user_id) as connection:
        # what was forgotten while the model was reading must not come back in its words
        if len(await tombstones.remembered(connection, user_id, lines)) < len(lines):
            return False
        text = await sealed(connection, user_id, "conversations", conversation_id, text)
        # the version: what was forgotten meanwhile must not come back in a summary of the messages as they were
        written = await connection.fetchval(
            WRITE, user_id, conversation_id, row["summary_seq"], last, text, row["version"]
        )
    return written is not None and row["last"] - last >= config.every


async def _written(reasoner: Reasoner, before: str, lines: Sequence[Said]) -> str:
    if not lines:
        return before
    prompt = prompts.load(PROMPT)
    asked = f"Summary so far: {before or 'none'}\n{dialogue(lines)}"
    value = json_in(await reasoner.structured(prompt.system, prompt.examples, asked, SCHEMA))
    text = value.get("summary") if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise NonsenseError("no_summary")
    kept = grounded(text, before, lines)
    if not kept:
        raise NonsenseError("empty_summary")
    return kept


_SENTENCE = re.compile(r"(?<=[.!?])\s+|(?<=[。！？])")


def grounded(text: str, before: str, lines: Sequence[Said]) -> str:
    """The sentences of a summary that name nothing and nobody that was not there, and give no orders."""
    basis = " ".join([before, *(line.text for line in lines), *(line.speaker or "" for line in lines)])
    numbers, spoken = words.numbers(basis), set(words.tokens(basis))
    kept: list[str] = []
    for sentence in _SENTENCE.split(" ".join(text.split())):
        known = all(
            name in spoken or any(words.same_name(name, word) for word in spoken) for name in words.names(sentence)
        )
        if sentence and known and words.numbers(sentence) <= numbers and not refusal(sentence):
            kept.append(sentence)
    while kept and len(" ".join(kept)) > SUMMARY_CHARS:
        kept.pop(0)  # the oldest matter comes first in a summary
    return " ".join(kept)


# --- the profile

PROFILE_CHARS = 700
LOOPS_AHEAD = timedelta(days=14)
TOPICS = (
    "identity",
    "home",
    "work",
    "relationship",
    "family",
    "pets",
    "health",
    "food",
    "education",
    "hobbies",
    "tastes",
)
FIRST_SLOTS = ("name", "age", "home", "work", "relationship", "partner", "diet")


@dataclass(frozen=True, slots=True)
class Profile:
    text: str
    version: int
    built_at: datetime


FACTS = """
SELECT f.kind, f.topic, f.slot, f.text, f.status, f.pinned, f.confirmations, f.said_at, f.due_at, c.companion_name AS companion
FROM facts f LEFT JOIN conversations c ON c.user_id = f.user_id AND c.id = f.conversation_id
WHERE f.user_id = $1 AND f.route = $2 AND f.status IN ('active', 'uncertain')
    AND (f.kind = 'user' OR f.kind = 'open_loop' OR coalesce(c.companion_name, $3) = $3)
ORDER BY f.pinned DESC, f.confirmations DESC, f.said_at DESC, f.id LIMIT 500
"""
KEEP = """
INSERT INTO profiles (user_id, route, companion, text) VALUES ($1, $2, $3, $4)
ON CONFLICT (user_id, route, companion) DO UPDATE SET text = excluded.text, built_at = now(), version = profiles.version + 1
RETURNING version, built_at
"""


async def read_profile(connection: Connection, user_id: UUID, route: str, companion: str) -> Profile:
    """The user's profile on a route and with a companion; written now if there is none."""
    row = await connection.fetchrow(
        "SELECT text, version, built_at FROM profiles WHERE user_id = $1 AND route = $2 AND companion = $3",
        user_id,
        route,
        companion,
    )
    return Profile(*row) if row else await rebuild_profile(connection, user_id, route, companion)


async def rebuild_profile(connection: Connection, user_id: UUID, route: str, companion: str) -> Profile:
    """Write the profile anew from the current facts. In the transaction that changes them, so that it never lags."""
    # whoever has a fact forgotten comes before, or waits and then drops the profile
    await connection.execute("SELECT FROM users WHERE user_id = $1 FOR SHARE", user_id)
    now: datetime = await connection.fetchval("SELECT now()")
    rows = await connection.fetch(FACTS, user_id, route, companion)
    text = profile_of([dict(row) for row in rows], now)
    before = await connection.fetchrow(
        "SELECT text, version, built_at FROM profiles WHERE user_id = $1 AND route = $2 AND companion = $3",
        user_id,
        route,
        companion,
    )
    if before is not None and before["text"] == text:
        return Profile(*before)
    kept = await sealed(connection, user_id, "profiles", user_id, text)
    version, built_at = await connection.fetchrow(KEEP, user_id, route, companion, kept)  # type: ignore[misc]
    return Profile(text, version, built_at)


def profile_of(facts: Iterable[dict[str, Any]], now: datetime) -> str:
    """What fits, the most telling first: pinned, who the user is, what lies ahead, then topic by topic."""
    ranked = sorted(facts, key=lambda fact: _rank(fact, now))
    lines: list[str] = []
    used = 0
    for fact in ranked:
        if fact["kind"] == "open_loop" and not _is_ahead(fact["due_at"], now):
            continue
        line = f"- {fact['text']}" + (" (may have changed: ask)" if fact["status"] == "uncertain" else "")
        if used + len(line) + 1 <= PROFILE_CHARS:
            lines.append(line)
            used += len(line) + 1
    return "\n".join(lines)


def _is_ahead(due_at: datetime | None, now: datetime) -> bool:
    return due_at is not None and now - timedelta(days=1) <= due_at <= now + LOOPS_AHEAD


def _rank(fact: dict[str, Any], now: datetime) -> tuple[int, int, int]:
    sort = fact["slot"].partition(":")[0]
    if fact["pinned"]:
        group = 0
    elif fact["kind"] == "user" and sort in FIRST_SLOTS:
        group = 1
    elif fact["kind"] == "open_loop" and _is_ahead(fact["due_at"], now):
        group = 2
    else:
        group = 3 if fact["kind"] == "user" else 4
    within = (
        FIRST_SLOTS.index(sort)
        if group == 1
        else TOPICS.index(fact["topic"])
        if fact["topic"] in TOPICS
        else len(TOPICS)
    )
    return group, within, -fact["confirmations"]
