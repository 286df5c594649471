"""All that is kept of one user, page by page, for an export."""

from datetime import datetime
from typing import Any
from uuid import UUID

from memory.postgres import Connection

USER = (
    "SELECT issuer, subject, time_zone, birth_date, known_minor, known_below, created_at FROM users WHERE user_id = $1"
)
ASSURANCES = """
SELECT level, method, provider, policy_version, verified_at, expires_at, revoked_at
FROM age_assurances WHERE user_id = $1 ORDER BY verified_at
"""
NOTICES = (
    "SELECT kind, text, conversation_id, turn_id, created_at FROM notices WHERE user_id = $1 ORDER BY created_at, kind"
)
PROFILES = "SELECT route, companion, text, version, built_at FROM profiles WHERE user_id = $1 ORDER BY route, companion"
CONVERSATIONS = """
SELECT id, title, route, lock_reason, companion_name, persona, time_zone, source, summary, created_at, updated_at
FROM conversations WHERE user_id = $1 AND deleted_at IS NULL AND ($3::uuid IS NULL OR id > $3) ORDER BY id LIMIT $2
"""
MESSAGES = """
SELECT id, seq, parent_id, role, speaker, content, reasoning, status, created_at, external_id
FROM messages WHERE user_id = $1 AND conversation_id = $2 AND seq > $4 ORDER BY seq LIMIT $3
"""
FACTS = """
SELECT f.id, f.kind, f.text, f.quote, f.status, f.pinned, f.route, f.said_at, f.learnt_at, f.valid_from, f.valid_to,
    f.due_at, f.superseded_by, f.confirmations, f.extractor, f.origin, f.conversation_id, f.message_id, f.source_seq AS seq
FROM facts f WHERE f.user_id = $1 AND ($3::uuid IS NULL OR f.id > $3) ORDER BY f.id LIMIT $2
"""
SOURCES = """
SELECT fact_id, conversation_id, message_id, seq, role, quote, said_at FROM fact_sources
WHERE user_id = $1 AND fact_id = ANY ($2::uuid[]) ORDER BY said_at, message_id
"""
ERASURES = "SELECT id, scope, receipt, created_at FROM erasures WHERE user_id = $1 ORDER BY created_at"

Row = dict[str, Any]


async def read_user(connection: Connection, user_id: UUID) -> Row:
    """Who the user is, with what has no pages: assurances, notices, profiles, receipts. Empty for a user unknown here."""
    found = await connection.fetchrow(USER, user_id)
    return {
        "user": dict(found) if found else None,
        "age_assurances": [dict(row) for row in await connection.fetch(ASSURANCES, user_id)],
        "notices": [dict(row) for row in await connection.fetch(NOTICES, user_id)],
        "profiles": [dict(row) for row in await connection.fetch(PROFILES, user_id)],
        "erasures": [dict(row) for row in await connection.fetch(ERASURES, user_id)],
    }


async def conversations(connection: Connection, user_id: UUID, limit: int, after: UUID | None) -> list[Row]:
    return [dict(row) for row in await connection.fetch(CONVERSATIONS, user_id, limit, after)]


async def messages(connection: Connection, user_id: UUID, conversation_id: UUID, limit: int, after: int) -> list[Row]:
    return [dict(row) for row in await connection.fetch(MESSAGES, user_id, conversation_id, limit, after)]


async def facts(connection: Connection, user_id: UUID, limit: int, after: UUID | None) -> list[Row]:
    """With all their sources, history included."""
    found = [{**dict(row), "sources": []} for row in await connection.fetch(FACTS, user_id, limit, after)]
    by_id = {fact["id"]: fact["sources"] for fact in found}
    for row in await connection.fetch(SOURCES, user_id, list(by_id)):
        source = dict(row)
        by_id[source.pop("fact_id")].append(source)
    return found


def moment(value: datetime | None) -> str:
    return "" if value is None else value.strftime("%Y-%m-%d %H:%M")
