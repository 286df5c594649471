"""The master key: whose it is, what it hides, and when the service refuses to start."""

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
import redis.asyncio

from memory.postgres import Database, PoolConfig
from memory.resealing import keyed_by_id
from memory.vault import MasterKey, Vault
from service.sealing import check_vault, open_vault
from service.settings import Settings
from service.startup import StartError
from service.worker import resealing
from tests.fixtures.service import LiveService
from tests.memory.learning_kit import Talk, ToldReasoner, answer

CANARY = "Zanzibarquex"


def settings(home: Path, key: str = "", *, embedded: bool = False) -> Settings:
    return Settings.model_validate({"RAPPORT_HOME": home, "RAPPORT_MASTER_KEY": key, "RAPPORT_EMBEDDED": embedded})


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, 1, 1), Vault(MasterKey(b"m" * 32, "m")))
    yield database
    await database.close()


def test_without_a_key_only_the_embedded_setup_starts(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="openssl rand"):
        open_vault(settings(tmp_path))
    made = open_vault(settings(tmp_path, embedded=True))
    again = open_vault(settings(tmp_path, embedded=True))
    assert made is not None
    assert again is not None
    assert made.names == again.names
    path = tmp_path / "keys" / "master.key"
    assert path.stat().st_mode & 0o077 == 0
    assert open_vault(settings(tmp_path, "off")) is None


def test_keys_come_from_the_environment_or_from_files(tmp_path: Path) -> None:
    first, second = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    file = tmp_path / "second.key"
    file.write_text(second + "\n")
    vault = open_vault(settings(tmp_path, f"{first}, {file}"))
    assert vault is not None
    assert vault.names == {MasterKey.parse(first).name, MasterKey.parse(second).name}


@pytest.mark.parametrize("key", ["short", "/nowhere/at/all.key", "c2hvcnQ="])
def test_a_wrong_key_is_a_sentence(tmp_path: Path, key: str) -> None:
    with pytest.raises(StartError, match="RAPPORT_MASTER_KEY"):
        open_vault(settings(tmp_path, key))


async def test_a_database_sealed_under_another_key_is_not_opened(
    tmp_path: Path, database: Database, database_url: str
) -> None:
    async with database.as_user(uuid4()):
        pass
    await check_vault(settings(tmp_path), database)
    other = Database(PoolConfig(database_url, 1, 1), Vault(MasterKey(b"o" * 32, "o")))
    with pytest.raises(StartError, match="master key m"):
        await check_vault(settings(tmp_path), other)
    await other.close()
    plain = Database(PoolConfig(database_url, 1, 1))
    with pytest.raises(StartError, match="master key m"):
        await check_vault(settings(tmp_path), plain)
    await plain.close()


async def dumped(cache: redis.asyncio.Redis, key: bytes) -> bytes:
    """A key's value as a stolen dump has it."""
    kind = await cache.type(key)
    if kind == b"stream":
        return repr(await cache.xrange(key)).encode()
    if kind == b"string":
        return repr(await cache.get(key)).encode()
    return repr(await cache.dump(key)).encode()


async def test_nothing_that_was_said_can_be_read_in_the_stores(
    service_factory: Callable[..., LiveService], superuser_url: str, broker_url: str, redis_url: str
) -> None:
    service = service_factory(DRAMATIQ_BROKER_URL=broker_url)
    service.start()
    service.start("worker")
    headers = service.headers("canary")
    async with httpx.AsyncClient(base_url=service.url, headers=headers, timeout=30) as http:
        companion = {"name": "Mira", "persona": f"You come from {CANARY}."}
        conversation = (await http.post("/v1/conversations", json={"companion": companion})).json()["id"]
        path = f"/v1/conversations/{conversation}"
        said = await http.post(f"{path}/turns", json={"content": f"I live in {CANARY}. What do you think?"})
        assert "turn.completed" in said.text
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        instructed = [{"role": "system", "content": f"Speak of {CANARY}."}, {"role": "user", "content": "Hello"}]
        asked = await http.post("/v1/chat/completions", json={"model": model, "messages": instructed})
        assert asked.status_code == 200, asked.text
        assert companion["persona"] in (await http.get(path)).text
        lines = [{"speaker": "Ann", "text": f"My cat is called {CANARY}."}]
        body = "\n".join(json.dumps(line) for line in lines)
        assert (await http.post("/v1/conversations/import", content=body)).status_code == 201
        added = await http.post("/v1/memories", json={"text": f"I was born in {CANARY}"})
        await http.patch(f"/v1/memories/{added.json()['id']}", json={"text": f"I was raised in {CANARY}"})
        for _ in range(60):
            facts = (await http.get("/v1/memories?layer=fact")).json()["items"]
            if any(not fact["by_user"] for fact in facts):
                break
            await asyncio.sleep(0.5)
        assert any(not fact["by_user"] and CANARY in fact["text"] for fact in facts)
        messages = (await http.get(f"{path}/messages")).json()["items"]
        assert CANARY in messages[0]["content"]
        assert CANARY in (await http.get(path)).json()["title"]
        found = await http.post("/v1/memories/search", json={"query": f"Who lives in {CANARY}?"})
        assert CANARY in found.text
        assert CANARY in (await http.get(f"/v1/memories?text={CANARY.lower()}")).text
        assert CANARY in (await http.get("/v1/export")).text
    cache = redis.asyncio.Redis.from_url(redis_url)
    kept = {key: await dumped(cache, key) async for key in cache.scan_iter()}
    await cache.aclose()
    assert any(key.startswith(b"buffer:") for key in kept)
    assert any(key.startswith(b"reply:") for key in kept)
    assert [key for key, value in kept.items() if CANARY.lower().encode() in value.lower()] == []
    connection = await asyncpg.connect(superuser_url)
    tables = await connection.fetch(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    readable = {
        table["relname"]: rows
        for table in tables
        if (
            rows := await connection.fetchval(
                f'SELECT count(*) FROM "{table["relname"]}" AS t WHERE strpos(lower(t::text), lower($1)) > 0', CANARY
            )
        )
    }
    await connection.close()
    assert readable == {}


async def test_the_command_brings_everybody_under_their_keys(
    tmp_path: Path, database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = Database(PoolConfig(database_url, 1, 2))
    for name in ("ana", "bob"):
        talk = await Talk(plain, name).open()
        await talk.say(f"I live in {CANARY}.")
        await talk.learn(ToldReasoner(answer()))
    await plain.close()

    def told(key: str) -> Settings:
        return Settings.model_validate(
            {"RAPPORT_HOME": tmp_path, "RAPPORT_MASTER_KEY": key, "DATABASE_URL": database_url}
        )

    assert await resealing.main(told("off"), wait=0) == 2
    assert "RAPPORT_MASTER_KEY" in capsys.readouterr().err
    key = base64.b64encode(b"m" * 32).decode()
    assert await resealing.main(told(key), wait=0) == 0
    assert "2 users" in capsys.readouterr().err
    assert await resealing.main(told(key), wait=0) == 0
    assert "nothing" in capsys.readouterr().err
    database = Database(PoolConfig(database_url, 1, 1), Vault(MasterKey.parse(key)))
    async with database.system() as connection:
        assert await keyed_by_id(connection) == 0
    await database.close()
