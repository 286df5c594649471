"""API keys: kept as hashes, scoped, revocable, and speaking for users only when they may."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx
import pytest

from memory.postgres import Database
from service.auth.api_keys import create_api_key, list_api_keys, revoke_api_key
from service.principal import derive_user_id
from tests.service.auth.conftest import IdentityProvider, bearer

APP = "https://app.example"


async def test_a_server_speaks_for_the_users_of_its_application(client: httpx.AsyncClient, database: Database) -> None:
    token, _ = await create_api_key(database, "backend", issuer=APP, scopes=["impersonate"])
    rotated, _ = await create_api_key(database, "backend", issuer=APP, scopes=["impersonate"])
    for key in (token, rotated):  # a new key finds the same users
        who = (await client.get("/me", headers=bearer(key, **{"X-Rapport-User": "alice"}))).json()
        assert who == {"subject": "alice", "issuer": APP, "user_id": str(derive_user_id(APP, "alice"))}
    spelt = [(b"Authorization", b"Bearer " + token.encode()), (b"X-Rapport-User", "zoë".encode())]
    named = await client.get("/me", headers=spelt)
    assert named.json()["subject"] == "zoë"


async def test_without_the_scope_a_key_speaks_for_itself_only(client: httpx.AsyncClient, database: Database) -> None:
    token, _ = await create_api_key(database, "bot", issuer=APP)
    who = (await client.get("/me", headers=bearer(token))).json()
    assert who["subject"] == "bot"
    assert who["user_id"] != str(derive_user_id(APP, "bot"))  # not a user of that name
    refused = await client.get("/me", headers=bearer(token, **{"X-Rapport-User": "alice"}))
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    speaker, _ = await create_api_key(database, "speaker", issuer=APP, scopes=["impersonate"])
    alone = await client.get("/me", headers=bearer(speaker))
    assert (alone.status_code, alone.json()["code"]) == (403, "scope_missing")


async def test_a_users_token_names_nobody_else(client: httpx.AsyncClient, provider: IdentityProvider) -> None:
    operator = provider.sign(roles=["operator"])
    answer = await client.get("/me", headers=bearer(operator, **{"X-Rapport-User": "bob"}))
    assert (answer.status_code, answer.json()["code"]) == (403, "scope_missing")
    assert (await client.get("/me", headers=bearer(operator))).status_code == 200


@pytest.mark.parametrize("name", ["", "x" * 256, "a\tb", "\udcff"])
async def test_a_name_that_is_none_is_refused(client: httpx.AsyncClient, database: Database, name: str) -> None:
    token, _ = await create_api_key(database, "backend", scopes=["impersonate"])
    headers = [
        (b"Authorization", b"Bearer " + token.encode()),
        (b"X-Rapport-User", name.encode("utf-8", "surrogateescape")),
    ]
    assert (await client.get("/me", headers=headers)).status_code == 422


async def test_operator_keys_lose_the_role_when_they_speak_for_a_user(
    client: httpx.AsyncClient, database: Database
) -> None:
    token, _ = await create_api_key(database, "ops", scopes=["operator", "impersonate"])
    assert (await client.get("/operators", headers=bearer(token))).status_code == 200
    spoken = await client.get("/operators", headers=bearer(token, **{"X-Rapport-User": "alice"}))
    assert (spoken.status_code, spoken.json()["code"]) == (403, "operator_only")
    chat, _ = await create_api_key(database, "chat")
    assert (await client.get("/operators", headers=bearer(chat))).status_code == 403


async def test_a_revoked_key_is_worth_nothing_within_the_cache_time(
    client: httpx.AsyncClient, database: Database
) -> None:
    token, key = await create_api_key(database, "backend")
    assert (await client.get("/me", headers=bearer(token))).status_code == 200
    assert await revoke_api_key(database, key.id)
    assert not await revoke_api_key(database, key.id)
    await asyncio.sleep(0.15)
    answer = await client.get("/me", headers=bearer(token))
    assert (answer.status_code, answer.json()["code"]) == (401, "token_revoked")


async def test_a_key_ends_at_its_time(client: httpx.AsyncClient, database: Database) -> None:
    token, _ = await create_api_key(database, "backend", expires_at=datetime.now(UTC) + timedelta(seconds=0.3))
    assert (await client.get("/me", headers=bearer(token))).status_code == 200
    await asyncio.sleep(0.35)
    answer = await client.get("/me", headers=bearer(token))
    assert (answer.status_code, answer.json()["code"]) == (401, "token_expired")


async def test_the_database_holds_no_secret_and_shows_keys_to_no_user(
    client: httpx.AsyncClient, database: Database, superuser_url: str
) -> None:
    token, key = await create_api_key(database, "backend")
    secret = token.rpartition("_")[2] if token.count("_") == 2 else token[20:]
    admin = await asyncpg.connect(superuser_url)
    try:
        row = str(await admin.fetchval("SELECT to_jsonb(api_keys)::text FROM api_keys"))
    finally:
        await admin.close()
    assert key.id in row
    assert secret not in row
    async with database.as_user(derive_user_id(APP, "alice")) as connection:
        assert await connection.fetchval("SELECT count(*) FROM api_keys") == 0
    assert [listed.id for listed in await list_api_keys(database)] == [key.id]


async def test_a_key_in_the_cookie_is_refused(client: httpx.AsyncClient, database: Database) -> None:
    token, _ = await create_api_key(database, "backend")
    answer = await client.get("/me", headers={"Cookie": f"rapport_session={token}"})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_malformed")
    answer = await client.post("/v1/session", json={"token": token})
    assert (answer.status_code, answer.json()["code"]) == (401, "token_malformed")


@pytest.mark.parametrize(
    ("name", "options"),
    [("", {}), ("a\0b", {}), ("x", {"issuer": "rapport"}), ("x", {"scopes": ["root"]}), ("x", {"scopes": []})],
)
async def test_a_key_that_would_be_too_powerful_is_not_made(
    database: Database, name: str, options: dict[str, str]
) -> None:
    with pytest.raises(ValueError, match=r"scopes|issuer"):
        await create_api_key(database, name, **options)  # type: ignore[arg-type]
