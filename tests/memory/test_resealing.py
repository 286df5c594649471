"""What was indexed by the user's id, or left readable, comes under the user's key; nothing is lost on the way."""

import hashlib
from datetime import timedelta
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from memory import lexical, tombstones
from memory.errors import KeyUnavailableError
from memory.indexing import EpisodeRow, index_messages
from memory.postgres import Database, PoolConfig
from memory.resealing import keyed_by_id, reseal
from memory.retrieval import RecallQuery, recall
from memory.turns import TEXTS_OF_REQUEST
from memory.vault import PREFIX, MasterKey, Vault
from tests.memory.learning_kit import SAID, Talk, fact

MASTER = MasterKey(b"m" * 32, "m")
LINES = ("My dog Biscuit chewed my shoes", "I live in Lisbon", "The weather was fine")


async def remember(database: Database, talk: Talk) -> None:
    await talk.say(*LINES)
    await talk.teach("My cat is called Tom.", fact(1, "My cat is called Tom", "The user's cat is called Tom."))
    async with database.as_user(talk.user_id) as connection:
        await connection.execute("UPDATE conversations SET persona = 'You are Sam' WHERE user_id = $1", talk.user_id)
        await connection.execute("UPDATE messages SET reasoning = 'A dog, then' WHERE user_id = $1", talk.user_id)
        digest = tombstones.message_digest(talk.user_id, "user", SAID, "forgotten words")
        await tombstones.bury(connection, talk.user_id, [digest])


async def finds(database: Database, user_id: UUID, words: str) -> list[str]:
    query = RecallQuery(user_id, words, None, ("general",), 500, 3, SAID + timedelta(days=1))
    async with database.as_user(user_id) as connection:
        return [item.text for item in await recall(connection, query)]


def guessable(user_id: UUID, word: str) -> int:
    """The id that a term had before: who has the table and a dictionary can test words by it."""
    digest = hashlib.blake2b(lexical.stem(word.lower(), "en").encode(), key=user_id.bytes, digest_size=8).digest()
    return int.from_bytes(digest) % lexical.TERM_SPACE + 1


async def holds(url: str, user_id: UUID, term: int) -> bool:
    connection = await asyncpg.connect(url)
    try:
        return bool(
            await connection.fetchval(
                """SELECT EXISTS (SELECT FROM episodes WHERE user_id = $1 AND $2 = ANY (terms))
                OR EXISTS (SELECT FROM term_counts WHERE user_id = $1 AND term = $2)""",
                user_id,
                term,
            )
        )
    finally:
        await connection.close()


async def test_no_word_can_be_tested_without_the_key(database_url: str, superuser_url: str) -> None:
    database = Database(PoolConfig(database_url, 1, 3), Vault(MASTER))
    talk = await Talk(database).open()
    await remember(database, talk)
    assert not await holds(superuser_url, talk.user_id, guessable(talk.user_id, "Biscuit"))
    assert "Biscuit" in (await finds(database, talk.user_id, "Where is Biscuit?"))[0]
    await database.close()


async def test_what_was_keyed_by_the_id_is_brought_under_the_key(database_url: str, superuser_url: str) -> None:
    plain = Database(PoolConfig(database_url, 1, 3))
    talk = await Talk(plain).open()
    await remember(plain, talk)
    before = guessable(talk.user_id, "Biscuit")
    assert await holds(superuser_url, talk.user_id, before)
    with pytest.raises(KeyUnavailableError):
        await reseal(plain, talk.user_id)
    await plain.close()

    database = Database(PoolConfig(database_url, 1, 3), Vault(MASTER))
    stale = Database(PoolConfig(database_url, 1, 3), Vault(MASTER))
    for one in (database, stale):
        assert "Biscuit" in (await finds(one, talk.user_id, "Where is Biscuit?"))[0]
    async with database.system() as connection:
        assert await keyed_by_id(connection) == 1
    done = await reseal(database, talk.user_id)
    assert (done["users"], done["episodes"], done["facts"], done["tombstones"]) == (1, 4, 1, 1)
    assert not await holds(superuser_url, talk.user_id, before)
    assert "Biscuit" in (await finds(database, talk.user_id, "Where is Biscuit?"))[0]
    assert not await reseal(database, talk.user_id)

    # another process that still holds the key as it was indexes one more message by the id: coming again mends it
    late = EpisodeRow(talk.id, 9, uuid7(), "user", None, "Marmalade is my hamster", SAID, "general")
    async with stale.as_user(talk.user_id) as connection:
        await index_messages(connection, talk.user_id, [late])
        await tombstones.bury(
            connection, talk.user_id, [tombstones.message_digest(talk.user_id, "user", SAID, "buried late")]
        )
    assert (await reseal(database, talk.user_id))["episodes"] == 1
    assert "Marmalade" in (await finds(database, talk.user_id, "Who is Marmalade?"))[0]
    async with database.as_user(talk.user_id) as connection:
        for words in ("forgotten words", "buried late"):
            digest = tombstones.message_digest(talk.user_id, "user", SAID, words)
            assert await tombstones._buried(connection, talk.user_id, [digest]) == {digest}
    # what is said again is still recognised as the same
    talk.database = database
    again = await talk.teach(
        "Yes, my cat is called Tom!", fact(1, "my cat is called Tom", "The user's cat is called Tom.")
    )
    assert again.facts["confirmed"] == 1
    for one in (database, stale):
        await one.close()


async def test_texts_that_stood_open_are_sealed(database_url: str, superuser_url: str) -> None:
    plain = Database(PoolConfig(database_url, 1, 3))
    talk = await Talk(plain).open()
    await remember(plain, talk)
    await plain.close()
    database = Database(PoolConfig(database_url, 1, 3), Vault(MASTER))
    await reseal(database, talk.user_id)
    connection = await asyncpg.connect(superuser_url)
    for column in (
        "messages.content",
        "messages.reasoning",
        "episodes.text",
        "facts.text",
        "fact_sources.quote",
        "conversations.persona",
    ):
        table, _, name = column.partition(".")
        values = [
            row[0] for row in await connection.fetch(f"SELECT {name} FROM {table} WHERE user_id = $1", talk.user_id)
        ]
        assert values, column
        assert all(value.startswith(PREFIX) for value in values), column
    await connection.close()
    async with database.as_user(talk.user_id) as conn:
        assert (
            await conn.fetchval("SELECT persona FROM conversations WHERE user_id = $1", talk.user_id) == "You are Sam"
        )
        found = {
            row["content"] for row in await conn.fetch("SELECT content FROM messages WHERE user_id = $1", talk.user_id)
        }
    assert set(LINES) <= found
    assert TEXTS_OF_REQUEST == ("instructions",)
    await database.close()
