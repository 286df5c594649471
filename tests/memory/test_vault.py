"""Text at rest: sealed with its user's key, opened as it arrives."""

import base64
import os
from collections.abc import AsyncIterator
from uuid import UUID, uuid4

import asyncpg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from memory import curation, transcript
from memory import vault as vaults
from memory.errors import KeyUnavailableError
from memory.postgres import Database, PoolConfig
from memory.retrieval import RecallQuery, recall
from memory.vault import PREFIX, LiveKeys, MasterKey, UserKey, Vault, opened, sealed
from tests.memory.learning_kit import SAID, Talk, fact

MASTER = MasterKey(b"m" * 32, "m")
OTHER = MasterKey(b"o" * 32, "o")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, 2, 4), Vault(MASTER))
    yield database
    await database.close()


@given(st.text())
def test_every_text_comes_back(text: str) -> None:
    key = UserKey(uuid4(), os.urandom(32))
    token = key.seal("messages", uuid4(), text)
    assert token.startswith(PREFIX)
    assert key.open(token) == text


def test_a_token_opens_only_for_its_owner_and_as_it_was_written() -> None:
    owner, row = uuid4(), uuid4()
    key = UserKey(owner, b"k" * 32)
    token = key.seal("messages", row, "the words")
    assert UserKey(uuid4(), b"k" * 32).open(token) == token  # even with the same key: the owner is bound in
    assert UserKey(owner, b"x" * 32).open(token) == token
    raw = bytearray(base64.b64decode(token[len(PREFIX) :]))
    for at in (0, 5, vaults.HEADER, vaults.HEADER + vaults.NONCE, len(raw) - 1):  # table, row, nonce, words, tag
        changed = bytearray(raw)
        changed[at] ^= 1
        forged = PREFIX + base64.b64encode(changed).decode()
        assert key.open(forged) == forged
    assert key.open(token) == "the words"


@pytest.mark.parametrize("text", ["", PREFIX, PREFIX + "!", PREFIX + "AAAA", "plain", "\x01s1"])
def test_what_is_no_token_is_read_as_it_is(text: str) -> None:
    assert UserKey(uuid4(), b"k" * 32).open(text) == text


def test_a_value_outside_the_database_opens_for_its_owner_where_it_was_written() -> None:
    owner, keys = uuid4(), LiveKeys([MASTER])
    value = keys.seal(owner, b"buffer:1", b"the words")
    assert b"words" not in value
    assert keys.open(owner, b"buffer:1", value) == b"the words"
    assert keys.open(owner, b"buffer:1", b'{"plain": 1}') == b'{"plain": 1}'
    rotated = LiveKeys([OTHER, MASTER])
    assert rotated.open(owner, b"buffer:1", value) == b"the words"
    for other, about, token in (
        (uuid4(), b"buffer:1", value),
        (owner, b"buffer:2", value),
        (owner, b"buffer:1", value[:-1] + bytes([value[-1] ^ 1])),
        (owner, b"buffer:1", value[:6]),
    ):
        with pytest.raises(ValueError, match="does not open"):
            keys.open(other, about, token)
    with pytest.raises(ValueError, match="does not open"):
        LiveKeys([OTHER]).open(owner, b"buffer:1", value)


def test_the_same_words_never_look_alike() -> None:
    key, row = UserKey(uuid4(), b"k" * 32), uuid4()
    assert len({key.seal("facts", row, "same") for _ in range(100)}) == 100


@pytest.mark.parametrize("text", ["", "short", "eA==", "zz" * 32, "é" * 32])
def test_a_master_key_is_32_bytes(text: str) -> None:
    with pytest.raises(ValueError, match="openssl rand"):
        MasterKey.parse(text)


def test_a_master_key_is_named_by_what_it_is() -> None:
    secret = os.urandom(32)
    parsed = MasterKey.parse(base64.b64encode(secret).decode() + "\n")
    assert parsed == MasterKey.parse(secret.hex())
    assert parsed.name != MasterKey.parse(os.urandom(32).hex()).name


async def test_words_that_were_moved_to_another_row_are_not_shown(database_url: str, superuser_url: str) -> None:
    """Whoever can write to the tables swaps a user's own texts: they open, and are told by the row they were sealed for."""
    database = Database(PoolConfig(database_url, 2, 4), Vault(MASTER))
    talk = await Talk(database).open()
    await talk.teach("My dog is called Rex.", fact(1, "My dog is called Rex", "The user's dog is called Rex."))
    await talk.teach("I live in Faro.", fact(1, "I live in Faro", "The user lives in Faro."))
    query = RecallQuery(talk.user_id, "Where do I live? Faro", None, ("general",), 500, 5, SAID)

    async def shown() -> tuple[list[str], list[str], str]:
        async with database.as_user(talk.user_id) as connection:
            messages = await transcript.list_messages(connection, talk.user_id, talk.id, 10)
            items = await curation.list_memories(connection, talk.user_id, curation.Filter(layer="fact"), 10)
            recalled = " ".join(item.text for item in await recall(connection, query))
        return [m.content for m in messages], sorted(item.text for item in items), recalled

    said, facts, recalled = await shown()
    assert said == ["My dog is called Rex.", "I live in Faro."]
    assert len(facts) == 2
    assert "Faro" in recalled
    await swap(superuser_url, talk.user_id)
    said, facts, recalled = await shown()
    assert said == ["", ""]
    assert facts == ["", ""]
    assert "Faro" not in recalled
    assert "Rex" not in recalled
    await database.close()


async def swap(superuser_url: str, user_id: UUID) -> None:
    """Give each of the user's two texts to the other's row, in every table of them."""
    connection = await asyncpg.connect(superuser_url)
    for column, row in (("messages.content", "id"), ("facts.text", "id"), ("episodes.text", "message_id")):
        table, _, name = column.partition(".")
        (one, other) = await connection.fetch(
            f"SELECT {row} AS row, {name} AS text FROM {table} WHERE user_id = $1", user_id
        )
        for target, source in ((one, other), (other, one)):
            await connection.execute(
                f"UPDATE {table} SET {name} = $3 WHERE user_id = $1 AND {row} = $2",
                user_id,
                target["row"],
                source["text"],
            )
    await connection.close()


async def test_text_opens_in_its_users_transaction_and_in_no_other(database: Database, superuser_url: str) -> None:
    ana, eve = uuid4(), uuid4()
    async with database.as_user(ana) as connection:
        token = await sealed(connection, ana, "messages", uuid7(), "Zanzibar")
        assert token.startswith(PREFIX)
        assert await sealed(connection, ana, "messages", uuid7(), "") == ""
        assert await connection.fetchval("SELECT $1::text", token) == "Zanzibar"
        # arrays are the way in, for many rows at once, and not out
        assert await connection.fetchval("SELECT ($1::text[])[1]", [token, None, "plain"]) == "Zanzibar"
    async with database.as_user(eve) as connection:
        assert await connection.fetchval("SELECT $1::text", token) == token
    async with database.system() as connection:
        assert await connection.fetchval("SELECT $1::text", token) == token
        assert await opened(connection, ana, token) == "Zanzibar"
        assert await opened(connection, eve, token) == token
        for_ana = await sealed(connection, ana, "turns", uuid7(), "checkpoint")
    async with database.as_user(ana) as connection:
        assert await connection.fetchval("SELECT $1::text", for_ana) == "checkpoint"


async def test_a_key_outlives_processes_and_rotations_but_not_its_master(database: Database, database_url: str) -> None:
    ana = uuid4()
    async with database.as_user(ana) as connection:
        token = await sealed(connection, ana, "messages", uuid7(), "Zanzibar")
    rotated = Database(PoolConfig(database_url, 1, 1), Vault(OTHER, MASTER))
    async with rotated.as_user(ana) as connection:
        assert await connection.fetchval("SELECT $1::text", token) == "Zanzibar"
    await rotated.close()
    lost = Database(PoolConfig(database_url, 1, 1), Vault(OTHER))
    with pytest.raises(KeyUnavailableError):
        async with lost.as_user(ana):
            raise AssertionError
    await lost.close()


async def test_a_wrapped_key_moved_to_another_user_opens_nothing(database: Database, superuser_url: str) -> None:
    ana, eve = uuid4(), uuid4()
    for user in (ana, eve):
        async with database.as_user(user):
            pass
    connection = await asyncpg.connect(superuser_url)
    await connection.execute(
        "UPDATE user_keys SET wrapped = (SELECT wrapped FROM user_keys WHERE user_id = $1) WHERE user_id = $2", ana, eve
    )
    await connection.close()
    fresh = Database(database._config, Vault(MASTER))
    with pytest.raises(KeyUnavailableError):
        async with fresh.as_user(eve):
            raise AssertionError
    await fresh.close()


async def test_two_first_transactions_agree_on_one_key(database: Database, database_url: str) -> None:
    other = Database(PoolConfig(database_url, 1, 1), Vault(MASTER))
    ana = uuid4()
    async with database.as_user(ana) as connection:
        first = await sealed(connection, ana, "messages", uuid7(), "one")
    async with other.as_user(ana) as connection:
        assert await connection.fetchval("SELECT $1::text", first) == "one"
    await other.close()


async def test_a_key_whose_transaction_failed_is_not_kept(database: Database) -> None:
    ana = uuid4()
    with pytest.raises(ZeroDivisionError):
        async with database.as_user(ana):
            raise ZeroDivisionError
    async with database.as_user(ana) as connection:
        token = await sealed(connection, ana, "messages", uuid7(), "Zanzibar")
    async with database.as_user(ana) as connection:
        assert await connection.fetchval("SELECT $1::text", token) == "Zanzibar"


async def test_arguments_stay_as_strict_as_the_driver_has_them(database: Database) -> None:
    async with database.as_user(uuid4()) as connection:
        with pytest.raises(asyncpg.DataError):
            await connection.fetchval("SELECT $1::text", 7)
