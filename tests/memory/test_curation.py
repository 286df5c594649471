"""A user's hands on memory, over a real database."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import numpy as np
import pytest
from uuid_utils.compat import uuid7

from memory import curation, erasure
from memory.curation import Filter
from memory.errors import MemoryNotFoundError, NotCorrectableError
from memory.postgres import Database
from tests.memory.learning_kit import SAID, Talk, ToldReasoner, answer, fact, opened

VECTOR = np.full(384, 384**-0.5, np.float32)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


async def facts_of(talk: Talk) -> list[Any]:
    async with talk.database.as_user(talk.user_id) as connection:
        return await connection.fetch(
            "SELECT id, kind, text, quote, message_id, source_seq FROM facts WHERE user_id = $1 ORDER BY learnt_at, id",
            talk.user_id,
        )


async def listed(talk: Talk, wanted: Filter | None = None, limit: int = 50) -> list[str]:
    async with talk.database.as_user(talk.user_id) as connection:
        return [i.text for i in await curation.list_memories(connection, talk.user_id, wanted or Filter(), limit)]


async def correct(talk: Talk, fact_id: UUID, text: str) -> UUID:
    async with talk.database.as_user(talk.user_id) as connection:
        await erasure.forget_corrected(connection, talk.user_id, fact_id)
        return await curation.correct_fact(connection, talk.user_id, fact_id, text, VECTOR)


DOG = fact(1, "My dog is called Biscuit", "The user's dog is called Biscuit")


async def taught(database: Database) -> tuple[Talk, UUID]:
    talk = await Talk(database).open()
    await talk.teach("My dog is called Biscuit.", DOG)
    (row,) = await facts_of(talk)
    return talk, row["id"]


async def test_both_layers_are_listed_and_filtered(database: Database) -> None:
    talk, _ = await taught(database)
    assert sorted(await listed(talk)) == ["My dog is called Biscuit.", "The user's dog is called Biscuit"]
    assert await listed(talk, Filter(layer="fact")) == ["The user's dog is called Biscuit"]
    assert await listed(talk, Filter(layer="episode")) == ["My dog is called Biscuit."]
    assert await listed(talk, Filter(text="BISCUIT", layer="fact")) == ["The user's dog is called Biscuit"]
    assert await listed(talk, Filter(text="%")) == []
    assert await listed(talk, Filter(kind="companion")) == []
    assert await listed(talk, Filter(conversation_id=uuid4())) == []
    assert await listed(talk, Filter(pinned=True)) == []


async def test_pages_show_each_memory_once(database: Database) -> None:
    talk = await Talk(database).open()
    for n in range(7):
        await talk.teach(f"My number {n} dog is called Rex{n}.", at=SAID + timedelta(days=n))
    seen: list[str] = []
    before = None
    async with database.as_user(talk.user_id) as connection:
        while page := await curation.list_memories(connection, talk.user_id, Filter(), 3, before):
            seen += [item.text for item in page]
            before = (page[-1].said_at, page[-1].id)
    assert seen == [f"My number {n} dog is called Rex{n}." for n in reversed(range(7))]


async def test_a_stranger_sees_and_changes_nothing(database: Database) -> None:
    talk, fact_id = await taught(database)
    stranger = await Talk(database, "eve").open()
    async with database.as_user(stranger.user_id) as connection:
        assert await curation.list_memories(connection, stranger.user_id, Filter(), 10) == []
        for memory_id in (fact_id, uuid4()):
            with pytest.raises(MemoryNotFoundError):
                await curation.read_memory(connection, stranger.user_id, memory_id)
            with pytest.raises(MemoryNotFoundError):
                await curation.correct_fact(connection, stranger.user_id, memory_id, "x", VECTOR)
            with pytest.raises(MemoryNotFoundError):
                await curation.pin_fact(connection, stranger.user_id, memory_id, pinned=True)
            with pytest.raises(MemoryNotFoundError):
                await erasure.forget(connection, stranger.user_id, memory_id)
        # the second wall: another's id with this user's context finds nothing either
        assert await curation.list_memories(connection, talk.user_id, Filter(), 10) == []
    assert await talk.texts() == ["The user's dog is called Biscuit"]


async def test_a_correction_keeps_history_and_wins_over_its_source(database: Database) -> None:
    talk, old = await taught(database)
    new = await correct(talk, old, "The user's dog is called Bisquit")
    async with database.as_user(talk.user_id) as connection:
        found = await curation.read_memory(connection, talk.user_id, new)
    assert (found.item.text, found.item.by_user, found.item.status) == (
        "The user's dog is called Bisquit",
        True,
        "active",
    )
    assert [(h.id, h.status, h.superseded_by) for h in found.history] == [(old, "corrected", new)]
    assert [(s.quote, s.content) for s in found.sources] == [("My dog is called Biscuit", "My dog is called Biscuit.")]
    assert await listed(talk, Filter(layer="fact")) == ["The user's dog is called Bisquit"]
    # the same message is read once more, as after a change of the extractor
    async with database.as_user(talk.user_id) as connection:
        await connection.execute("UPDATE conversations SET learnt_seq = 0 WHERE user_id = $1", talk.user_id)
    await talk.learn(ToldReasoner(answer(DOG)))
    assert await talk.texts() == ["The user's dog is called Bisquit"]
    # but said anew, it is new
    await talk.teach("My dog is called Biscuit.", DOG, at=SAID + timedelta(days=30))
    assert "The user's dog is called Biscuit" in await talk.texts()


async def test_history_and_episodes_cannot_be_corrected(database: Database) -> None:
    talk, old = await taught(database)
    new = await correct(talk, old, "Corrected")
    (message,) = [row["message_id"] for row in await facts_of(talk) if row["id"] == new]
    for memory_id in (old, message):
        with pytest.raises(NotCorrectableError):
            await correct(talk, memory_id, "again")
        async with database.as_user(talk.user_id) as connection:
            with pytest.raises(NotCorrectableError):
                await curation.pin_fact(connection, talk.user_id, memory_id, pinned=True)
    third = await correct(talk, new, "Corrected twice")
    async with database.as_user(talk.user_id) as connection:
        found = await curation.read_memory(connection, talk.user_id, third)
    assert [h.text for h in found.history] == ["The user's dog is called Biscuit", "Corrected"]


async def test_what_the_owner_adds_has_no_message_and_can_be_pinned(database: Database) -> None:
    talk = Talk(database)
    async with database.as_user(talk.user_id) as connection:
        first = await curation.add_fact(
            connection, talk.owner, kind="user", text="I am allergic to peanuts", route="general", due_at=None,
            pinned=False, vector=VECTOR,
        )  # fmt: skip
        second = await curation.add_fact(
            connection, talk.owner, kind="open_loop", text="Dentist", route="general", due_at=SAID, pinned=True,
            vector=None,
        )  # fmt: skip
        await curation.pin_fact(connection, talk.user_id, first, pinned=True)
        found = await curation.read_memory(connection, talk.user_id, first)
        assert (found.item.conversation_id, found.item.pinned, found.sources) == (None, True, [])
        pinned = await curation.list_memories(connection, talk.user_id, Filter(pinned=True), 10)
        assert {item.id for item in pinned} == {first, second}
        assert await curation.quotes(connection, talk.user_id, [first, uuid7()]) == {first: ""}


async def test_an_episode_shows_what_was_learnt_from_it(database: Database) -> None:
    talk, fact_id = await taught(database)
    (row,) = await facts_of(talk)
    async with database.as_user(talk.user_id) as connection:
        found = await curation.read_memory(connection, talk.user_id, row["message_id"])
    assert (found.item.layer, [h.id for h in found.history], found.sources[0].role) == ("episode", [fact_id], "user")
