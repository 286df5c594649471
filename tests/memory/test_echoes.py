"""What says a forgotten fact in other words is named, and forgotten too when that is wished; summaries of it go."""

from collections.abc import AsyncIterator

import pytest

from memory import erasure, reindex
from memory.embedders import MiniLmEmbedder
from memory.erasure import Erasure
from memory.postgres import Database
from tests.memory.learning_kit import Talk, ToldReasoner, answer, fact, opened

# (what is learnt, in whose words; messages that say it otherwise; messages that are near and don't)
CASES = [
    (
        ("My daughter is called Lena.", "My daughter is called Lena", "The user's daughter is called Lena."),
        ["Lena, our daughter, started school on Monday"],
        ["My son plays chess on Mondays", "The film was called Solaris"],
    ),
    (
        ("I was diagnosed with epilepsy.", "I was diagnosed with epilepsy", "The user was diagnosed with epilepsy."),
        ["Since my epilepsy I am not allowed to drive"],
        ["I have been diagnosed with a cold", "I passed my driving test"],
    ),
    (
        ("I live in Granada.", "I live in Granada", "The user lives in Granada."),
        ["My flat in Granada has a view of the hills"],
        ["We flew over Malaga", "I drive a Skoda"],
    ),
    (
        ("I owe the bank 40000 euros.", "I owe the bank 40000 euros", "The user owes the bank 40000 euros."),
        ["My debt to the bank is still 40000 euros"],
        ["I lent my cousin 50 euros", "The bank is closed on Sundays"],
    ),
]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def minilm() -> AsyncIterator[MiniLmEmbedder]:
    embedder = MiniLmEmbedder()
    yield embedder
    await embedder.aclose()


async def forget(talk: Talk, text: str, *, similar: bool = False) -> Erasure:
    async with talk.database.as_user(talk.user_id) as connection:
        wanted = next(row["id"] for row in await talk.facts() if row["text"] == text)
        done = await erasure.forget(connection, talk.user_id, wanted, similar=similar)
        await reindex.make_recallable(connection, talk.user_id, done.redacted)
        return done


async def forget_message(talk: Talk, content: str, *, similar: bool = False) -> Erasure:
    async with talk.database.as_user(talk.user_id) as connection:
        rows = await connection.fetch("SELECT id, content FROM messages WHERE user_id = $1", talk.user_id)
        wanted = next(row["id"] for row in rows if row["content"] == content)
        return await erasure.forget(connection, talk.user_id, wanted, similar=similar)


async def summarised(talk: Talk, summary: str) -> Talk:
    async with talk.database.as_user(talk.user_id) as connection:
        await connection.execute(
            "UPDATE conversations SET summary = $3, summary_seq = 5 WHERE user_id = $1 AND id = $2",
            talk.user_id,
            talk.id,
            summary,
        )
    return talk


async def told(talk: Talk, *lines: str) -> None:
    await talk.say(*lines)
    for _ in lines:
        await talk.learn(ToldReasoner(answer()))


@pytest.mark.parametrize(("learnt", "same", "near"), CASES)
async def test_paraphrases_are_named_and_neighbours_are_not(
    database: Database, minilm: MiniLmEmbedder, learnt: tuple[str, str, str], same: list[str], near: list[str]
) -> None:
    line, quote, text = learnt
    talk = await Talk(database).open()
    talk.embedder = minilm  # type: ignore[assignment]  # the real one
    await talk.teach(line, fact(1, quote, text))
    await told(talk, *same, *near)
    done = await forget(talk, text)
    async with database.as_user(talk.user_id) as connection:
        rows = await connection.fetch("SELECT id, content FROM messages WHERE user_id = $1", talk.user_id)
    content = {row["id"]: row["content"] for row in rows}
    assert sorted(content[echo.id] for echo in done.similar) == sorted(same)
    assert all(echo.layer == "episode" and 0.55 < echo.likeness <= 1 for echo in done.similar)
    assert set(near) <= set(content.values())  # named is not forgotten
    assert set(same) <= set(content.values())


async def test_on_request_they_are_forgotten_too(database: Database, minilm: MiniLmEmbedder) -> None:
    talk = await Talk(database).open()
    talk.embedder = minilm  # type: ignore[assignment]  # the real one
    await talk.teach(
        "My secret place is Xanadu.", fact(1, "My secret place is Xanadu", "The user's secret place is Xanadu.")
    )
    await talk.teach(
        "Xanadu is my secret place to rest.",
        fact(1, "Xanadu is my secret place to rest", "The user rests at a secret place: Xanadu is."),
    )
    await told(talk, "My secret place is still Xanadu, of course", "My dog is called Rex")
    await forget(talk, "The user's secret place is Xanadu.", similar=True)
    async with database.as_user(talk.user_id) as connection:
        rows = await connection.fetch("SELECT content FROM messages WHERE user_id = $1 ORDER BY seq", talk.user_id)
    left = [row["content"] for row in rows]
    assert left[-1] == "My dog is called Rex"
    assert not any("Xanadu" in text for text in left), left
    assert await talk.texts() == []


async def test_every_summary_that_tells_it_is_dropped_and_no_other(database: Database) -> None:
    talk = await Talk(database).open()
    await talk.teach(
        "My secret place is Xanadu.", fact(1, "My secret place is Xanadu", "The user's secret place is Xanadu.")
    )
    other, third = Talk(database), Talk(database)
    for one, summary in (
        (talk, "They met."),
        (other, "They spoke of the weather. Xanadu is the place that the user keeps secret."),
        (third, "They spoke of a secret and of places."),
    ):
        if one is not talk:
            await one.open()
        async with database.as_user(one.user_id) as connection:
            await connection.execute(
                "UPDATE conversations SET summary = $3, summary_seq = 5 WHERE user_id = $1 AND id = $2",
                one.user_id,
                one.id,
                summary,
            )
    before = (await other.row())["version"]
    done = await forget(talk, "The user's secret place is Xanadu.")
    # that of the source goes whatever it says
    assert [(await one.row())["summary"] for one in (talk, other)] == ["", ""]
    assert (await other.row())["version"] == before + 1
    assert (await other.row())["summary_seq"] == 0
    assert (await third.row())["summary"] != ""
    assert other.id in done.conversations
    assert done.counts["summaries"] == 2


@pytest.mark.parametrize("taught", [True, False])
@pytest.mark.parametrize(("learnt", "same", "near"), CASES)
async def test_paraphrases_of_a_forgotten_message_are_named_too(
    database: Database,
    minilm: MiniLmEmbedder,
    learnt: tuple[str, str, str],
    same: list[str],
    near: list[str],
    taught: bool,
) -> None:
    line, quote, text = learnt
    talk = await Talk(database).open()
    talk.embedder = minilm  # type: ignore[assignment]  # the real one
    await talk.teach(line, *([fact(1, quote, text)] if taught else []))
    await told(talk, "Hello again, how nice", *same, *near)
    done = await forget_message(talk, line)
    assert await talk.texts() == []
    async with database.as_user(talk.user_id) as connection:
        rows = await connection.fetch("SELECT id, content FROM messages WHERE user_id = $1", talk.user_id)
    content = {row["id"]: row["content"] for row in rows}
    assert sorted(content[echo.id] for echo in done.similar) == sorted(same)


async def test_a_greeting_has_no_echo(database: Database, minilm: MiniLmEmbedder) -> None:
    talk = await Talk(database).open()
    talk.embedder = minilm  # type: ignore[assignment]  # the real one
    await told(talk, "Good morning!", "Good morning, Mira!", "Good morning to you")
    done = await forget_message(talk, "Good morning!", similar=True)
    assert done.similar == []
    assert done.counts["messages"] == 1


@pytest.mark.parametrize("taught", [True, False])
async def test_summaries_that_tell_a_forgotten_message_are_dropped_and_no_other(
    database: Database, taught: bool
) -> None:
    talk = await summarised(await Talk(database).open(), "They met.")
    other = await summarised(await Talk(database).open(), "They spoke of the weather. The user keeps Xanadu secret.")
    third = await summarised(await Talk(database).open(), "They spoke of a secret, and said good morning.")
    line = "Good morning! My secret place is Xanadu."
    claimed = fact(1, "My secret place is Xanadu", "The user's secret place is Xanadu.")
    await talk.teach(line, *([claimed] if taught else []))
    done = await forget_message(talk, line)
    assert [(await one.row())["summary"] for one in (talk, other)] == ["", ""]
    assert (await third.row())["summary"] != ""
    assert done.counts["summaries"] == 2
    assert done.counts["facts"] == int(taught)


async def test_what_goes_with_a_forgotten_fact_has_its_echoes_named_too(
    database: Database, minilm: MiniLmEmbedder
) -> None:
    """The words that taught it taught another fact."""
    talk = await Talk(database).open()
    talk.embedder = minilm  # type: ignore[assignment]  # the real one
    quote = "I was diagnosed with epilepsy and collect stamps"
    await talk.teach(
        f"{quote}.",
        fact(1, quote, "The user was diagnosed with epilepsy."),
        fact(1, quote, "The user collects stamps."),
    )
    await told(talk, "Since my epilepsy I am not allowed to drive")
    other = await summarised(await Talk(database).open(), "The user was diagnosed with epilepsy.")
    async with database.as_user(talk.user_id) as connection:
        wanted = next(row["id"] for row in await talk.facts() if "stamps" in row["text"])
        done = await erasure.forget(connection, talk.user_id, wanted)
    assert await talk.texts() == []
    assert len(done.similar) == 1
    assert (await other.row())["summary"] == ""
