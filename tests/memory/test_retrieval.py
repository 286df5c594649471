"""Recall over a real database, with vectors made by hand where meaning matters."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import numpy as np
import numpy.typing as npt
import pytest

from memory.many import index_many
from memory.postgres import Database, PoolConfig
from memory.retrieval import EpisodeRow, RecalledItem, RecallQuery, Vector, index_messages, recall
from memory.statements import NARROW

START = datetime(2023, 5, 8, 9, 0, tzinfo=UTC)
PLAIN = [
    ("Caroline", "I went to a support group yesterday and it was powerful."),
    ("Melanie", "I painted that lake sunrise last year."),
    ("Caroline", "My dog Biscuit chewed my running shoes."),
    ("Melanie", "Oh no! Did you buy another pair?"),
    ("Caroline", "Yes, purple ones."),
    ("Melanie", "I have a pottery class on Thursdays."),
]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    opened = Database(PoolConfig(database_url))
    yield opened
    await opened.close()


def said(
    lines: list[tuple[str, str]],
    conversation_id: UUID,
    *,
    route: str = "general",
    vectors: dict[int, Vector] | None = None,
) -> list[EpisodeRow]:
    return [
        EpisodeRow(
            conversation_id=conversation_id,
            seq=number,
            message_id=uuid4(),
            role="user" if speaker == "Caroline" else "assistant",
            speaker=speaker,
            text=text,
            said_at=START + timedelta(minutes=number),
            route=route,
            vector=(vectors or {}).get(number),
        )
        for number, (speaker, text) in enumerate(lines, 1)
    ]


def asking(
    user_id: UUID, text: str, *, routes: tuple[str, ...] = ("general",), vector: Vector | None = None
) -> RecallQuery:
    return RecallQuery(
        user_id=user_id,
        text=text,
        vector=vector,
        routes=routes,
        token_budget=500,
        limit=10,
        now=START + timedelta(days=30),
        names=("Caroline", "Melanie"),
    )


async def ask(database: Database, query: RecallQuery) -> list[RecalledItem]:
    async with database.as_user(query.user_id) as connection:
        return await recall(connection, query)


async def tell(database: Database, user_id: UUID, rows: list[EpisodeRow]) -> int:
    async with database.as_user(user_id) as connection:
        return await index_messages(connection, user_id, rows)


def pointing(axis: int) -> Vector:
    vector = np.zeros(384, np.float32)
    vector[axis] = 1
    return vector


async def test_words_find_a_message_and_its_relative_date_is_resolved(database: Database) -> None:
    user, conversation = uuid4(), uuid4()
    await tell(database, user, said(PLAIN, conversation))
    items = await ask(database, asking(user, "When did Caroline go to the support group?"))
    assert items[0].seq == 1
    assert (
        items[0].text == "[2023-05-08] Caroline: I went to a support group yesterday (7 May 2023) and it was powerful."
    )
    assert items[0].why == ("lexical",)
    assert (items[0].conversation_id, items[0].speaker, items[0].layer) == (conversation, "Caroline", "episode")


async def test_meaning_finds_what_words_do_not(database: Database) -> None:
    user = uuid4()
    vectors = {number: pointing(number) for number in range(1, 7)}
    await tell(database, user, said(PLAIN, uuid4(), vectors=vectors))
    items = await ask(database, asking(user, "hobbies with clay", vector=pointing(6)))
    assert items[0].seq == 6
    assert "dense" in items[0].why


async def test_an_answer_is_found_through_the_question_before_it(database: Database) -> None:
    user = uuid4()
    await tell(database, user, said(PLAIN, uuid4()))
    items = await ask(database, asking(user, "Which pair did Caroline buy after the dog chewed her shoes?"))
    assert 5 in [item.seq for item in items[:3]]


async def test_indexing_twice_changes_nothing_and_a_late_vector_is_filled_in(database: Database) -> None:
    user, conversation = uuid4(), uuid4()
    rows = said(PLAIN, conversation)
    assert await tell(database, user, rows) == len(PLAIN)
    late = [
        EpisodeRow(
            row.conversation_id,
            row.seq,
            row.message_id,
            row.role,
            row.speaker,
            row.text,
            row.said_at,
            row.route,
            pointing(3),
        )
        for row in rows[:1]
    ]
    assert await tell(database, user, late) == 0
    assert await tell(database, user, rows) == 0
    items = await ask(database, asking(user, "zzz", vector=pointing(3)))
    assert [item.seq for item in items][:1] == [1]
    async with database.as_user(user) as connection:
        assert await connection.fetchval("SELECT episodes FROM term_counts WHERE user_id = $1 AND term = 0", user) == 6


async def test_counts_of_terms_go_with_the_messages(database: Database) -> None:
    user, conversation = uuid4(), uuid4()
    await tell(database, user, said(PLAIN, conversation))
    async with database.as_user(user) as connection:
        await connection.execute("DELETE FROM episodes WHERE user_id = $1 AND seq > 1", user)
        counts = await connection.fetch("SELECT DISTINCT episodes FROM term_counts WHERE user_id = $1", user)
        assert [row["episodes"] for row in counts] == [1]
        await connection.execute("DELETE FROM episodes WHERE user_id = $1", user)
        assert await connection.fetchval("SELECT count(*) FROM term_counts WHERE user_id = $1", user) == 0


async def test_a_general_conversation_recalls_nothing_mature(database: Database) -> None:
    user = uuid4()
    await tell(database, user, said([("Caroline", "The velvet cellar night was wild.")], uuid4(), route="mature"))
    await tell(database, user, said(PLAIN, uuid4()))
    assert "velvet" not in str(await ask(database, asking(user, "velvet cellar night")))
    both = await ask(database, asking(user, "velvet cellar night", routes=("general", "mature")))
    assert "velvet" in both[0].text


async def test_one_user_never_sees_another(database: Database) -> None:
    one, other = uuid4(), uuid4()
    await tell(database, one, said(PLAIN, uuid4()))
    assert await ask(database, asking(other, "support group")) == []
    async with (
        database.system() as connection
    ):  # row-level security stands aside here: the statement's own filter holds
        assert await recall(connection, asking(other, "support group")) == []


async def test_recent_turns_that_the_prompt_holds_are_left_out(database: Database) -> None:
    user, conversation = uuid4(), uuid4()
    await tell(database, user, said(PLAIN, conversation))
    query = asking(user, "pottery class")
    shorter = RecallQuery(
        user, query.text, None, ("general",), 500, 10, query.now, exclude_conversation_after=(conversation, 5)
    )
    assert max(item.seq for item in await ask(database, shorter)) <= 5


async def test_nothing_is_recalled_when_nothing_is_good_enough(database: Database) -> None:
    user = uuid4()
    assert await ask(database, asking(user, "anything")) == []
    await tell(database, user, said(PLAIN, uuid4(), vectors={1: pointing(1)}))
    assert await ask(database, asking(user, "quantum chromodynamics", vector=pointing(200))) == []
    assert await ask(database, asking(user, "")) == []


async def test_the_token_budget_and_the_limit_hold(database: Database) -> None:
    user = uuid4()
    lines = [("Caroline", f"Story {number} about the lighthouse keeper and his boat.") for number in range(40)]
    await tell(database, user, said(lines, uuid4()))
    query = asking(user, "lighthouse keeper")
    items = await ask(database, query)
    assert len(items) == query.limit
    small = await ask(database, RecallQuery(user, query.text, None, ("general",), 60, 10, query.now))
    assert 0 < sum(round(len(item.text) / 4) for item in small) <= 60


async def test_hostile_messages_are_stored_and_found(database: Database) -> None:
    user = uuid4()
    lines = [
        ("Caroline", "nul \x00 byte and {curly: 1}/2 braces"),
        ("Melanie", "w" * 100_000),
        ("Caroline", " ".join(f"word{number}" for number in range(5_000))),
        ("Melanie", ""),
    ]
    assert await tell(database, user, said(lines, uuid4())) == 4
    assert (await ask(database, asking(user, "curly braces")))[0].seq == 1
    assert await ask(database, asking(user, "word17 " * 2_000)) is not None


@pytest.mark.parametrize("width", [384, NARROW + 1])
async def test_a_user_with_many_memories_recalls_the_same_through_the_indexes(database: Database, width: int) -> None:
    """Through the index that holds the vectors, and for a model whose vectors it can't hold."""
    user, conversation = uuid4(), uuid4()
    generator = np.random.default_rng(7)
    lines = [
        ("Caroline" if number % 2 else "Melanie", f"Remark {number} about {topic} and more")
        for number, topic in enumerate(["harbours", "kites", "lanterns", "tortoises", "violins"] * 30)
    ]
    lines[70] = ("Caroline", "The lighthouse keeper lent me his telescope.")
    vectors = {number: _unit(generator.normal(size=width)) for number in range(1, 151)}
    async with database.as_user(user) as connection:
        await connection.execute(
            "INSERT INTO users (user_id, issuer, subject) VALUES ($1, 'test', $2)", user, str(user)
        )
    await tell(database, user, said(lines, conversation, vectors=vectors))
    by_words = asking(user, "Who lent Caroline a telescope?")
    by_meaning = asking(user, "zzz", vector=vectors[33])
    read = [(await ask(database, query))[0].seq for query in (by_words, by_meaning)]
    assert read == [71, 33]
    assert await index_many(database, read_all=100) == 1
    assert await index_many(database, read_all=100) == 0
    late = said([("Melanie", "A meteorite fell into the pond.")], uuid4())
    await tell(database, user, late)
    assert [(await ask(database, query))[0].seq for query in (by_words, by_meaning)] == read
    assert "meteorite" in (await ask(database, asking(user, "What about the meteorite?")))[0].text
    async with database.as_user(user) as connection:
        assert await connection.fetchval("SELECT count(*) FROM episodes WHERE user_id = $1 AND NOT many", user) == 0


async def test_a_user_who_goes_on_growing_gets_new_cells_and_is_found_through_them(database: Database) -> None:
    user, conversation = uuid4(), uuid4()
    generator = np.random.default_rng(11)
    vectors = {number: _unit(generator.normal(size=384)) for number in range(1, 401)}
    lines = [("Caroline", f"Remark {number}") for number in range(1, 401)]
    rows = said(lines, conversation, vectors=vectors)
    async with database.as_user(user) as connection:
        await connection.execute(
            "INSERT INTO users (user_id, issuer, subject) VALUES ($1, 'test', $2)", user, str(user)
        )
    past = asking(user, "zzz was", vector=vectors[390])  # about the past: the newest does not come first
    await tell(database, user, rows[:120])
    assert await index_many(database, read_all=100) == 1
    await tell(database, user, rows[120:])
    assert (await ask(database, past))[0].seq == 390
    cells = "SELECT min(cell), count(*) FROM memory_cells WHERE user_id = $1"
    async with database.as_user(user) as connection:
        assert tuple(await connection.fetchrow(cells, user) or ()) == (0, 22)
    assert await index_many(database, read_all=100) == 1
    async with database.as_user(user) as connection:
        assert tuple(await connection.fetchrow(cells, user) or ()) == (22, 40)
        outside = "SELECT count(*) FROM episodes WHERE user_id = $1 AND (cell IS NULL OR cell < 22 OR NOT many)"
        assert await connection.fetchval(outside, user) == 0
    assert (await ask(database, past))[0].seq == 390
    assert await index_many(database, read_all=100) == 0


def _unit(vector: npt.NDArray[np.float64]) -> Vector:
    scaled: Vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return scaled
