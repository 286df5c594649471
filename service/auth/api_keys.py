"""API keys for servers: `rk_<id>_<secret>`, kept as a hash, scoped, revocable."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from memory.postgres import Database
from service.auth.config import OWN_ISSUER
from service.auth.errors import TokenInvalidError, TokenMalformedError

CHAT, IMPERSONATE, OPERATOR = "chat", "impersonate", "operator"
SCOPES = frozenset({CHAT, IMPERSONATE, OPERATOR})
FORM = re.compile(r"rk_([0-9a-f]{16})_([A-Za-z0-9_-]{43})", re.ASCII)
PREFIX = "rk_"


@dataclass(frozen=True, slots=True)
class ApiKey:
    id: str
    name: str
    issuer: str
    """Names the users this key speaks for; keys of one application share it, so that a new key finds the same users."""
    scopes: frozenset[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


COLUMNS = "id, name, issuer, scopes, created_at, expires_at, revoked_at"


def _api_key(row: Any) -> ApiKey:
    key_id, name, issuer, scopes, *times = row
    return ApiKey(key_id, name, issuer, frozenset(scopes), *times)


def _digest(secret: str) -> bytes:
    # the secret is 256 random bits: there is nothing to guess, so a slow hash would only slow us down
    return hashlib.sha256(secret.encode()).digest()


async def create_api_key(
    database: Database,
    name: str,
    *,
    issuer: str = "",
    scopes: Collection[str] = (CHAT,),
    expires_at: datetime | None = None,
) -> tuple[str, ApiKey]:
    """The new key's full text, which is shown once and kept nowhere, and its record. Raises `ValueError`."""
    unknown = set(scopes) - SCOPES
    if unknown or not scopes:
        raise ValueError(f"scopes are some of {', '.join(sorted(SCOPES))}")
    issuer = issuer or f"key:{name}"
    if not name.isprintable() or not name or not issuer.isprintable() or issuer == OWN_ISSUER:
        raise ValueError(f"a key needs a printable name and an issuer other than {OWN_ISSUER!r}")
    key_id, secret = secrets.token_hex(8), secrets.token_urlsafe(32)
    async with database.system() as connection:
        row = await connection.fetchrow(
            f"""INSERT INTO api_keys (id, name, issuer, secret_hash, scopes, expires_at)
            VALUES ($1, $2, $3, $4, $5, $6) RETURNING {COLUMNS}""",
            key_id,
            name,
            issuer,
            _digest(secret),
            sorted(scopes),
            expires_at,
        )
    return f"{PREFIX}{key_id}_{secret}", _api_key(row)


async def list_api_keys(database: Database) -> list[ApiKey]:
    async with database.system() as connection:
        rows = await connection.fetch(f"SELECT {COLUMNS} FROM api_keys ORDER BY created_at, id")
    return [_api_key(row) for row in rows]


async def revoke_api_key(database: Database, key_id: str) -> bool:
    """False when there is no such key in force."""
    async with database.system() as connection:
        found = await connection.fetchval(
            "UPDATE api_keys SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL RETURNING id", key_id
        )
    return found is not None


async def read_api_key(database: Database, token: str) -> ApiKey:
    """The record of the key that this is, in force or not. Raises an `AuthenticationError`."""
    match = FORM.fullmatch(token)
    if match is None:
        raise TokenMalformedError("The API key is not complete.")
    async with database.system() as connection:
        row = await connection.fetchrow(f"SELECT secret_hash, {COLUMNS} FROM api_keys WHERE id = $1", match[1])
    known = row["secret_hash"] if row is not None else bytes(32)
    if not hmac.compare_digest(known, _digest(match[2])) or row is None:
        raise TokenInvalidError("There is no such API key.")
    return _api_key(row[1:])
