"""A deleted conversation takes along what it alone had taught, and nothing else; who changes memory waits for who learns."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from memory import curation, erasure, facts, transcript
from memory.consolidation import NewFact
from memory.extraction import Said
from memory.postgres import Database, hold_user
from tests.memory.learning_kit import SAID, Talk, fact, opened

LISBON = fact(1, "I live in Lisbon", "The user lives in Lisbon.")
PORTO = fact(1, "I moved to Porto", "The user moved to Porto.")
ROME = fact(1, "I moved to Rome", "The user moved to Rome.")
REX = fact(1, "My dog is called Rex", "The user's dog is called Rex.")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


async def told(database: Database, *lines: tuple[str, dict[str, Any]]) -> list[Talk]:
    """Each line in a conversation of its own, a month after the one before."""
    talks = []
    for month, (line, claim) in enumerate(lines):
        talk = await Talk(database).open()
        await talk.teach(line, claim, at=SAID + timedelta(days=30 * month))
        talks.append(talk)
    return talks


async def delete(talk: Talk) -> None:
    async with talk.database.as_user(talk.user_id) as connection:
        assert await transcript.delete_conversation(connection, talk.user_id, talk.id)


async def correct(talk: Talk, fact_id: UUID, text: str) -> UUID:
    async with talk.database.as_user(talk.user_id) as connection:
        await erasure.forget_corrected(connection, talk.user_id, fact_id)
        return await curation.correct_fact(connection, talk.user_id, fact_id, text, None)


async def test_a_fact_that_another_conversation_bears_out_stays_with_that_one(database: Database) -> None:
    first, second = await told(database, ("My dog is called Rex.", REX), ("As I said: My dog is called Rex!", REX))
    await delete(first)
    (row,) = await second.facts()
    assert (row["status"], row["quote"], row["said_at"]) == (
        "active",
        "My dog is called Rex",
        SAID + timedelta(days=30),
    )
    async with database.as_user(second.user_id) as connection:
        found = await curation.read_memory(connection, second.user_id, row["id"])
    assert [source.content for source in found.sources] == ["As I said: My dog is called Rex!"]
    await delete(second)
    assert await second.facts() == []


async def test_what_only_the_deleted_conversation_said_goes_though_another_said_less(database: Database) -> None:
    longer = fact(1, "I play cello with Ana on Sundays", "The user plays cello with Ana on Sundays.")
    shorter = fact(1, "I play cello on Sundays", "The user plays cello on Sundays.")
    first, second = await told(
        database, ("I play cello with Ana on Sundays.", longer), ("I play cello on Sundays.", shorter)
    )
    assert await second.count("fact_sources") == 2
    await delete(first)
    assert await second.facts() == []


async def test_what_a_deleted_conversation_had_replaced_holds_again(database: Database) -> None:
    first, second = await told(database, ("I live in Lisbon.", LISBON), ("I moved to Porto.", PORTO))
    assert await first.texts() == ["The user moved to Porto."]
    await delete(second)
    (row,) = await first.facts()
    assert (row["text"], row["status"], row["superseded_by"], row["valid_to"]) == (
        "The user lives in Lisbon.",
        "active",
        None,
        None,
    )


async def test_history_closes_over_a_deleted_conversation(database: Database) -> None:
    first, second, third = await told(
        database, ("I live in Lisbon.", LISBON), ("I moved to Porto.", PORTO), ("I moved to Rome.", ROME)
    )
    await delete(second)
    rows = {row["text"]: row for row in await first.facts()}
    rome, lisbon = rows["The user moved to Rome."], rows["The user lives in Lisbon."]
    assert (rome["status"], lisbon["status"], lisbon["superseded_by"]) == ("active", "superseded", rome["id"])
    await delete(third)
    assert await first.texts() == ["The user lives in Lisbon."]


async def test_of_what_excluded_each_other_only_the_latest_holds_again(database: Database) -> None:
    """Learnt late and said early, as an import brings it: both were followed by the same fact."""
    latest, middle, first = [await Talk(database).open() for _ in range(3)]
    await latest.teach("I moved to Rome.", ROME, at=SAID + timedelta(days=60))
    await middle.teach("I moved to Porto.", PORTO, at=SAID + timedelta(days=30))
    await first.teach("I live in Lisbon.", LISBON, at=SAID)
    assert await first.texts() == ["The user moved to Rome."]
    await delete(latest)
    assert await first.texts() == ["The user moved to Porto."]
    await delete(middle)
    assert await first.texts() == ["The user lives in Lisbon."]


async def test_a_shorter_statement_that_was_merged_holds_again_without_what_the_longer_one_said(
    database: Database,
) -> None:
    short = fact(1, "I play cello in a quartet", "The user plays cello in a quartet.")
    full = fact(1, "I play cello in a quartet on Sundays", "The user plays cello in a quartet on Sundays.")
    first, second = await told(
        database, ("I play cello in a quartet.", short), ("I play cello in a quartet on Sundays.", full)
    )
    assert await first.texts() == ["The user plays cello in a quartet on Sundays."]
    await delete(second)
    assert [(row["text"], row["status"]) for row in await first.facts()] == [
        ("The user plays cello in a quartet.", "active")
    ]


async def test_a_correction_outlives_one_of_its_conversations(database: Database) -> None:
    first, second = await told(database, ("My dog is called Rex.", REX), ("As I said: My dog is called Rex!", REX))
    (old,) = await first.facts()
    new = await correct(first, old["id"], "The user's dog is called Tex.")
    await delete(first)
    assert {row["id"]: row["status"] for row in await second.facts()} == {old["id"]: "corrected", new: "active"}
    await delete(second)
    assert await second.facts() == []


async def test_what_a_deleted_conversation_made_uncertain_is_certain_again(database: Database) -> None:
    first, second = await told(database, ("I live in Lisbon.", LISBON), ("I moved to Porto.", PORTO))
    (old, new) = await first.facts()
    async with database.as_user(first.user_id) as connection:
        await connection.execute(
            """UPDATE facts SET status = 'uncertain', uncertain_because = $3, superseded_by = NULL, valid_to = NULL
            WHERE user_id = $1 AND id = $2""",
            first.user_id,
            old["id"],
            new["id"],
        )
    await delete(second)
    (row,) = await first.facts()
    assert (row["status"], row["uncertain_because"]) == ("active", None)


# --- one after the other


def said_again(talk: Talk, row: Any) -> NewFact:
    said = Said(9, uuid4(), "user", None, "My dog is called Rex.", SAID + timedelta(days=1))
    return NewFact(
        id=uuid4(),
        kind="user",
        topic="pets",
        slot="",
        value="",
        text=row["text"],
        quote="My dog is called Rex",
        source=said,
        conversation_id=talk.id,
        ordinal=0,
        extractor="test",
        route="general",
        companion="Mira",
        valid_from=said.said_at,
        due_at=None,
        key=b"x" * 16,
    )


async def behind(talk: Talk, work: Coroutine[Any, Any, Any], learner: Any) -> None:
    """Let `work` begin while a learner stands in its transaction, and end after it."""
    async with talk.database.as_user(talk.user_id) as connection:
        await hold_user(connection, talk.user_id)
        waiting = asyncio.create_task(work)
        await asyncio.sleep(0.3)
        assert not waiting.done()
        await learner(connection)
    await waiting


async def test_a_correction_waits_for_the_learner_that_read_the_fact(database: Database) -> None:
    (talk,) = await told(database, ("My dog is called Rex.", REX))
    (row,) = await talk.facts()

    async def learner(connection: Any) -> None:
        assert await facts.confirm(connection, talk.user_id, row["id"], said_again(talk, row))

    await behind(talk, correct(talk, row["id"], "The user's dog is called Tex."), learner)
    assert await talk.texts() == ["The user's dog is called Tex."]


async def test_what_was_corrected_is_not_confirmed(database: Database) -> None:
    (talk,) = await told(database, ("My dog is called Rex.", REX))
    (row,) = await talk.facts()
    await correct(talk, row["id"], "The user's dog is called Tex.")
    async with database.as_user(talk.user_id) as connection:
        assert not await facts.confirm(connection, talk.user_id, row["id"], said_again(talk, row))
    assert await talk.texts() == ["The user's dog is called Tex."]


async def test_a_deletion_waits_for_the_profile_that_is_being_written(database: Database) -> None:
    (talk,) = await told(database, ("My dog is called Rex.", REX))

    async def learner(connection: Any) -> None:
        await connection.execute("UPDATE profiles SET text = 'The dog is called Rex' WHERE user_id = $1", talk.user_id)

    await behind(talk, delete(talk), learner)
    assert await talk.count("profiles") == 0
