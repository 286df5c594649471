"""How a resent history is recognised says nothing to who has the tables; what was written before is recognised as it was."""

import hashlib
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from memory import erasure, transcript, turns
from memory.chains import chains, keyed, said_digest
from memory.errors import ConversationNotFoundError, IdempotencyConflictError, TurnInProgressError
from memory.gates import Gate
from memory.postgres import Database, PoolConfig
from memory.resealing import reseal
from memory.turns import NewTurn, Reply
from memory.vault import MasterKey, Vault
from service.openai.history import Place, Said, place
from tests.memory.learning_kit import Talk

MASTER = MasterKey(b"m" * 32, "m")
WORDS = ("I am in Lisbon", "How is it there?", "Warm", "And tomorrow?", "Warmer")
REQUEST = hashlib.sha256(b"the whole request").digest()


def said(count: int, *more: str) -> list[Said]:
    texts = [*WORDS[:count], *more]
    return [Said("assistant" if at % 2 else "user", text) for at, text in enumerate(texts)]


async def answer(database: Database, talk: Talk, where: Place, asked: str, reply: str) -> tuple[UUID, UUID]:
    """Say and answer something as the door does; the ids of both messages."""
    new = NewTurn(
        talk.user_id,
        where.conversation_id,
        uuid7(),
        uuid7(),
        asked,
        REQUEST,
        client_message_id=f"key {asked}",
        parent_id=where.parent_id,
    )
    written = Reply(uuid7(), reply, "stop", "b", "m", scripted=True)
    async with database.as_user(talk.user_id) as connection:
        accepted = await turns.accept(connection, new, Gate(("general",)), 60)
        await turns.commit(connection, talk.user_id, accepted.turn_id, 1, written)
    return accepted.message_id, written.message_id


async def digests(url: str) -> tuple[list[bytes | None], list[bytes | None]]:
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT chain, fingerprint FROM messages ORDER BY seq")
        more = await connection.fetch("SELECT fingerprint FROM turns WHERE fingerprint IS NOT NULL")
    finally:
        await connection.close()
    return [row["chain"] for row in rows], [row["fingerprint"] for row in (*rows, *more)]


def guessed(history: Sequence[Said]) -> set[bytes]:
    words = [(one.role, one.text) for one in history]
    return {*chains(words), *(said_digest(*one) for one in words), REQUEST}


def opened(url: str, *masters: MasterKey) -> Database:
    return Database(PoolConfig(url, 1, 2), Vault(*masters) if masters else None)


async def test_a_history_is_recognised_and_no_guess_of_it_confirmed(database_url: str, superuser_url: str) -> None:
    database = opened(database_url, MASTER)
    talk = await Talk(database).open()
    begun = Place(talk.id)
    await answer(database, talk, begun, WORDS[0], WORDS[1])
    where = await place(database, talk.owner, said(3), "general")
    assert where.conversation_id == talk.id
    _, last = await answer(database, talk, where, WORDS[2], WORDS[3])
    assert await place(database, talk.owner, said(5), "general") == Place(talk.id, last)
    # what the client knows and we don't is added, under the same key
    added = await place(database, talk.owner, said(5, "Really?", "So they say"), "general")
    assert added.conversation_id == talk.id
    again = await place(database, talk.owner, said(5), "general")
    assert again.answers is not None
    found, prints = await digests(superuser_url)
    assert {len(chain or b"") for chain in found} == {24}
    assert not (guessed(said(5, "Really?", "So they say")) & {*found, *prints})
    await database.close()


async def test_a_history_that_is_sent_while_its_reply_is_written_is_told_so(database_url: str) -> None:
    """As a client does that closed the stream, and sends what it has read of the reply: nothing is lost that isn't there."""
    database = opened(database_url, MASTER)
    talk = await Talk(database).open()
    running = NewTurn(talk.user_id, talk.id, uuid7(), uuid7(), WORDS[0], REQUEST)
    async with database.as_user(talk.user_id) as connection:
        await turns.accept(connection, running, Gate(("general",)), 60)
    with pytest.raises(TurnInProgressError) as refused:
        await place(database, talk.owner, said(3), "general")
    assert refused.value.turn_id == running.turn_id
    async with database.as_user(talk.user_id) as connection:
        with pytest.raises(TurnInProgressError):
            await transcript.choose_head(connection, talk.user_id, talk.id, running.message_id)
        with pytest.raises(ConversationNotFoundError):
            await transcript.choose_head(connection, talk.user_id, uuid7(), running.message_id)
        written = Reply(uuid7(), WORDS[1], "stop", "b", "m", scripted=True)
        await turns.commit(connection, talk.user_id, running.turn_id, 1, written)
        with pytest.raises(ConversationNotFoundError):
            await transcript.choose_head(connection, talk.user_id, talk.id, uuid7())
    assert (await place(database, talk.owner, said(3), "general")).conversation_id == talk.id
    await database.close()


async def test_the_same_request_is_the_same_turn_whenever_it_was_made(database_url: str) -> None:
    plain, database = opened(database_url), opened(database_url, MASTER)
    talk = await Talk(plain).open()
    first, _ = await answer(plain, talk, Place(talk.id), WORDS[0], WORDS[1])
    new = NewTurn(talk.user_id, talk.id, uuid7(), uuid7(), WORDS[0], REQUEST, client_message_id=f"key {WORDS[0]}")
    other = NewTurn(
        talk.user_id, talk.id, uuid7(), uuid7(), WORDS[0], REQUEST[::-1], client_message_id=f"key {WORDS[0]}"
    )
    for _ in range(2):
        async with database.as_user(talk.user_id) as connection:
            accepted = await turns.accept(connection, new, Gate(("general",)), 60)
            assert (accepted.duplicate, accepted.message_id) == (True, first)
            with pytest.raises(IdempotencyConflictError):
                await turns.accept(connection, other, Gate(("general",)), 60)
        await reseal(database, talk.user_id)
    await plain.close()
    await database.close()


async def test_what_began_before_goes_on_and_is_brought_under_the_key(database_url: str, superuser_url: str) -> None:
    plain = opened(database_url)
    talk = await Talk(plain).open()
    await answer(plain, talk, Place(talk.id), WORDS[0], WORDS[1])
    assert set(chains([(one.role, one.text) for one in said(2)])) == set((await digests(superuser_url))[0])
    await plain.close()
    database = opened(database_url, MASTER)
    where = await place(database, talk.owner, said(3), "general")
    assert where.conversation_id == talk.id
    _, last = await answer(database, talk, where, WORDS[2], WORDS[3])
    assert {len(chain or b"") for chain in (await digests(superuser_url))[0]} == {32}
    assert await place(database, talk.owner, said(5), "general") == Place(talk.id, last)
    done = await reseal(database, talk.user_id)
    assert done["digests"] >= 4
    found, prints = await digests(superuser_url)
    assert {len(chain or b"") for chain in found} == {24}
    assert not (guessed(said(5)) & {*found, *prints})
    assert await place(database, talk.owner, said(5), "general") == Place(talk.id, last)
    assert not (await reseal(database, talk.user_id))["digests"]
    await database.close()


async def test_what_was_forgotten_can_not_be_recognised_by_its_old_digest(
    database_url: str, superuser_url: str
) -> None:
    plain = opened(database_url)
    talk = await Talk(plain).open()
    message, _ = await answer(plain, talk, Place(talk.id), WORDS[0], WORDS[1])
    async with plain.as_user(talk.user_id) as connection:
        await erasure.forget(connection, talk.user_id, message)
    assert guessed(said(1)) & set((await digests(superuser_url))[0])
    await plain.close()
    database = opened(database_url, MASTER)
    await reseal(database, talk.user_id)
    assert (await digests(superuser_url))[0] == [None, None]
    await database.close()


def test_a_key_is_needed() -> None:
    user = UUID(int=7)
    digest = said_digest("user", " I am in Lisbon\r\n")
    assert digest == said_digest("user", "I am in Lisbon")
    assert keyed(user.bytes, user, digest) is None
    one, other = (keyed(bytes([secret]) * 32, user, digest) for secret in (1, 2))
    assert one != other
    assert len(one or b"") == 24
