"""Every key and how long it lives.

Braces are literal: they are the cluster's hash tag, so that all keys of a conversation live on one node.
"""

from uuid import UUID

SESSION_TTL_MS = 24 * 3600 * 1000
REPLY_TTL_MS = 3600 * 1000
"""A finished reply's log: long enough for a phone that was in a tunnel; after it, PostgreSQL answers."""

ANSWER_TTL_MS = 3600 * 1000
ANSWER_PLACES = 2048


def session_key(conversation_id: UUID) -> str:
    return f"session:{{{conversation_id}}}"


def buffer_key(conversation_id: UUID) -> str:
    return f"buffer:{{{conversation_id}}}"


def reply_key(conversation_id: UUID, turn_id: UUID) -> str:
    return f"reply:{{{conversation_id}}}:{turn_id}"


def answer_key(place: int) -> str:
    return f"answer:{place}"


def limit_key(holder: str, window: str) -> str:
    """How much a user or an address has asked for; two windows long, by limits/scripts/windows.lua."""
    return f"limit:{{{holder}}}:{window}"


def streams_key(holder: str) -> str:
    """Streams that a user or an address holds open; a lease long, by limits/scripts/permits.lua."""
    return f"streams:{{{holder}}}"
