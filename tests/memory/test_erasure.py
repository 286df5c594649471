"""Forgetting: no words are left, in no table, and nothing brings them back."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from memory import erasure, reindex, transcript, turns
from memory.curation import Filter, add_fact, correct_fact, list_memories
from memory.erasure import MARK, Erasure, without
from memory.errors import ConversationNotFoundError, MemoryNotFoundError, StoreUnavailableError
from memory.gates import Gate
from memory.learning import learn
from memory.postgres import Database
from memory.summaries import SummaryConfig, read_profile, summarise
from memory.turns import NewTurn, Reply
from tests.memory.learning_kit import QUICK, SAID, Talk, ToldReasoner, answer, fact, opened

CANARY = "Zanzibar-4711"
LINE = f"My secret place is {CANARY}. I also have a dog called Biscuit."
SECRET = fact(1, f"My secret place is {CANARY}", f"The user's secret place is {CANARY}")
DOG = fact(1, "I also have a dog called Biscuit", "The user has a dog called Biscuit")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


async def rows_with(superuser_url: str, text: str) -> dict[str, int]:
    """Rows of any table that contain the text, and stay below the eyes of row-level security."""
    connection = await asyncpg.connect(superuser_url)
    try:
        tables = await connection.fetch(
            "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
        )
        counts = {
            table["relname"]: await connection.fetchval(
                f'SELECT count(*) FROM "{table["relname"]}" AS t WHERE strpos(t::text, $1) > 0', text
            )
            for table in tables
        }
        return {table: count for table, count in counts.items() if count}
    finally:
        await connection.close()


async def facts_of(talk: Talk) -> list[Any]:
    async with talk.database.as_user(talk.user_id) as connection:
        return await connection.fetch(
            "SELECT id, kind, text, quote, message_id, source_seq FROM facts WHERE user_id = $1 ORDER BY learnt_at, id",
            talk.user_id,
        )


async def forget(talk: Talk, memory_id: UUID) -> Erasure:
    async with talk.database.as_user(talk.user_id) as connection:
        done = await erasure.forget(connection, talk.user_id, memory_id)
        await reindex.make_recallable(connection, talk.user_id, done.redacted)
    await reindex.add_vectors(talk.database, talk.embedder, talk.user_id, done.redacted)
    return done


async def id_of(talk: Talk, text: str) -> UUID:
    (found,) = [row["id"] for row in await facts_of(talk) if text in row["text"]]
    assert isinstance(found, UUID)
    return found


async def contents(talk: Talk) -> list[str]:
    async with talk.database.as_user(talk.user_id) as connection:
        return [m.content for m in await transcript.list_messages(connection, talk.user_id, talk.id, 50)]


async def episodes(talk: Talk) -> list[Any]:
    async with talk.database.as_user(talk.user_id) as connection:
        return await connection.fetch("SELECT * FROM episodes WHERE user_id = $1 ORDER BY seq", talk.user_id)


async def test_a_forgotten_fact_leaves_no_words_and_spares_the_rest(database: Database, superuser_url: str) -> None:
    talk = await Talk(database).open()
    await talk.teach(LINE, SECRET, DOG)
    before = {table.rstrip("0123456789") for table in await rows_with(superuser_url, CANARY)}
    assert before == {"messages_", "episodes_", "facts_", "fact_sources_", "profiles"}
    done = await forget(talk, await id_of(talk, CANARY))
    assert await rows_with(superuser_url, CANARY) == {}
    assert await talk.texts() == ["The user has a dog called Biscuit"]
    assert await contents(talk) == [f"{MARK}. I also have a dog called Biscuit."]
    (episode,) = await episodes(talk)
    assert episode["embedding"] is not None
    assert (done.counts["facts"], done.counts["messages"], done.counts["episodes"]) == (1, 1, 1)


async def reason(talk: Talk, reasoning: str) -> None:
    """As if the last message's writer had thought this, and somebody had asked to keep it."""
    async with talk.database.as_user(talk.user_id) as connection:
        await connection.execute(
            """UPDATE messages SET reasoning = $3 WHERE user_id = $1 AND conversation_id = $2
            AND seq = (SELECT max(seq) FROM messages WHERE user_id = $1 AND conversation_id = $2)""",
            talk.user_id,
            talk.id,
            reasoning,
        )


async def reasonings(talk: Talk) -> list[str]:
    async with talk.database.as_user(talk.user_id) as connection:
        return [m.reasoning for m in await transcript.list_messages(connection, talk.user_id, talk.id, 50)]


async def test_no_thought_since_then_is_left(database: Database, superuser_url: str) -> None:
    """A model may have thought of what it recalled, in any later reply and in any conversation."""
    before, talk, elsewhere = [await Talk(database).open() for _ in range(3)]
    await before.say(("assistant", "Hello!"), at=SAID - timedelta(days=1))
    await reason(before, "They said hello")
    await talk.teach(LINE, SECRET, DOG)
    await elsewhere.say("Where shall I go?", ("assistant", "Away!"), at=SAID + timedelta(days=1))
    await reason(elsewhere, f"They mean {CANARY}, which they told me")
    done = await forget(talk, await id_of(talk, CANARY))
    assert await rows_with(superuser_url, CANARY) == {}
    assert done.counts["reasoning"] == 1
    assert (await reasonings(before), await reasonings(elsewhere)) == (["They said hello"], ["", ""])
    async with database.as_user(talk.user_id) as connection:
        everything = await erasure.forget_all(connection, talk.user_id, keep_conversations=True)
    assert everything.counts["reasoning"] == 1
    assert await reasonings(before) == [""]


async def test_what_rests_on_the_same_words_is_forgotten_with_them(database: Database) -> None:
    talk = await Talk(database).open()
    both = fact(1, f"My secret place is {CANARY}", f"The user goes to {CANARY} in secret", kind="both")
    await talk.teach(LINE, SECRET, both, DOG)
    facts = await facts_of(talk)
    done = await forget(talk, next(row["id"] for row in facts if row["kind"] == "user" and CANARY in row["text"]))
    assert await talk.texts() == ["The user has a dog called Biscuit"]
    assert len(done.facts) == len(facts) - 1


async def test_the_same_message_does_not_teach_it_again(database: Database, superuser_url: str) -> None:
    talk = await Talk(database).open()
    await talk.teach(LINE, SECRET)
    await forget(talk, await id_of(talk, CANARY))
    # another conversation gets the same message, as an import of the same file would bring it
    again = await Talk(database).open()
    again.id, again.user_id = uuid7(), talk.user_id
    await again.open()
    await again.say(LINE)
    await again.learn(ToldReasoner(answer(SECRET)))
    assert await talk.texts() == []
    # the words said anew at another time are the user's decision
    await again.teach(f"My secret place is {CANARY}.", SECRET, at=SAID.replace(year=2027))
    assert await talk.texts() == [f"The user's secret place is {CANARY}"]


@pytest.mark.parametrize("index_first", [True, False])
async def test_a_late_learner_brings_nothing_back(database: Database, superuser_url: str, *, index_first: bool) -> None:
    """The learner has read the message and asks its model while the user has it forgotten."""
    talk = await Talk(database).open()
    await talk.say(LINE)
    reached, go_on = asyncio.Event(), asyncio.Event()

    class Waiting(ToldReasoner):
        async def structured(self, *args: Any, **kwargs: Any) -> str:
            reached.set()
            await go_on.wait()
            return await super().structured(*args, **kwargs)

    class SlowEmbedder:
        name, dimensions = "slow", 384

        async def embed(self, texts: Any, *, question: bool = False) -> Any:
            if not index_first:
                reached.set()
                await go_on.wait()
            return await talk.embedder.embed(texts)

        async def aclose(self) -> None:
            """Nothing is held."""

    late = asyncio.create_task(
        learn(database, Waiting(answer(SECRET, DOG)), SlowEmbedder(), talk.user_id, talk.id, QUICK)
    )
    await asyncio.wait_for(reached.wait(), 10)
    async with database.as_user(talk.user_id) as connection:
        (message,) = await transcript.list_messages(connection, talk.user_id, talk.id, 5)
    await forget(talk, message.id)
    go_on.set()
    await late
    assert await rows_with(superuser_url, CANARY) == {}
    assert await talk.texts() == []
    assert await episodes(talk) == []


async def test_a_fact_said_twice_loses_both_messages(database: Database, superuser_url: str) -> None:
    talk = await Talk(database).open()
    await talk.teach(f"My secret place is {CANARY}.", SECRET)
    await talk.teach(
        f"As I said, my secret place is {CANARY}.", fact(1, f"my secret place is {CANARY}", SECRET["text"])
    )
    (row,) = await facts_of(talk)
    assert await talk.count("fact_sources") == 2
    await forget(talk, row["id"])
    assert await rows_with(superuser_url, CANARY) == {}


async def test_a_forgotten_episode_leaves_facts_that_rest_on_another(database: Database) -> None:
    talk = await Talk(database).open()
    await talk.teach(f"My secret place is {CANARY}.", SECRET)
    await talk.teach(
        f"As I said, my secret place is {CANARY}.", fact(1, f"my secret place is {CANARY}", SECRET["text"])
    )
    first, second = await episodes(talk)
    await forget(talk, first["message_id"])
    (row,) = await facts_of(talk)
    assert (row["message_id"], row["source_seq"], row["quote"]) == (
        second["message_id"],
        second["seq"],
        f"my secret place is {CANARY}",
    )
    assert await contents(talk) == [MARK, f"As I said, my secret place is {CANARY}."]
    await forget(talk, second["message_id"])
    assert await facts_of(talk) == []


async def test_history_goes_with_the_fact_and_titles_and_summaries_with_the_words(
    database: Database, superuser_url: str
) -> None:
    talk = await Talk(database).open()
    await talk.teach(LINE, SECRET)
    async with database.as_user(talk.user_id) as connection:
        await connection.execute(
            "UPDATE conversations SET title = left($2, 60), summary = $2, summary_seq = 1 WHERE user_id = $1",
            talk.user_id,
            LINE,
        )
        await connection.execute(
            "UPDATE profiles SET text = $2 WHERE user_id = $1",
            talk.user_id,
            LINE,
        )
    old = await id_of(talk, CANARY)
    async with database.as_user(talk.user_id) as connection:
        new = await correct_fact(connection, talk.user_id, old, f"Really {CANARY}", None)
    done = await forget(talk, new)
    assert set(done.facts) == {old, new}
    assert await rows_with(superuser_url, CANARY) == {}


async def test_a_late_summary_brings_nothing_back(database: Database, superuser_url: str) -> None:
    talk = await Talk(database).open()
    await talk.teach(LINE, SECRET)
    config = SummaryConfig(every=1, keep=0)

    class Forgetful(ToldReasoner):
        """Its user has the secret forgotten while it writes."""

        async def structured(self, *args: Any, **kwargs: Any) -> str:
            await forget(talk, await id_of(talk, CANARY))
            return orjson.dumps({"summary": f"The user talked of {CANARY}."}).decode()

    await summarise(database, Forgetful(""), talk.user_id, talk.id, config)
    assert await rows_with(superuser_url, CANARY) == {}


async def test_what_the_owner_added_is_forgotten_without_a_message(database: Database, superuser_url: str) -> None:
    talk = await Talk(database).open()
    async with database.as_user(talk.user_id) as connection:
        added = await add_fact(
            connection, talk.owner, kind="user", text=CANARY, route="general", due_at=None, pinned=False, vector=None
        )
    await forget(talk, added)
    assert await rows_with(superuser_url, CANARY) == {}
    with pytest.raises(MemoryNotFoundError):
        await forget(talk, added)


@pytest.mark.parametrize("keep", [True, False])
async def test_forget_all(database: Database, superuser_url: str, *, keep: bool) -> None:
    talk = await Talk(database).open()
    other = await Talk(database, "eve").open()
    await talk.teach(LINE, SECRET)
    await talk.say("Not learnt from yet")
    await other.teach(
        f"{CANARY} too. I have a dog called Rex.", fact(1, "I have a dog called Rex", "User has a dog Rex")
    )
    async with database.as_user(talk.user_id) as connection:
        done = await erasure.forget_all(connection, talk.user_id, keep_conversations=keep)
    for table in ("facts", "fact_sources", "episodes", "term_counts", "profiles", "outbox"):
        assert await talk.count(table) == 0, table
    assert (await talk.count("messages") == 0) is not keep
    assert done.counts["facts"] == 1
    assert len(await facts_of(other)) == 1
    learnt = await talk.learn(ToldReasoner(answer(SECRET)))
    assert learnt.status == ("caught_up" if keep else "gone")
    if not keep:
        assert all(count == 1 for count in (await rows_with(superuser_url, CANARY)).values())  # the other user's


async def test_what_is_kept_to_read_is_not_indexed_by_a_late_learner(database: Database) -> None:
    """It had read the messages, and waits for its vectors while everything is forgotten."""
    talk = await Talk(database).open()
    await talk.say(LINE)
    reached, go_on = asyncio.Event(), asyncio.Event()

    class SlowEmbedder:
        name, dimensions = "slow", 384

        async def embed(self, texts: Any, *, question: bool = False) -> Any:
            reached.set()
            await go_on.wait()
            return await talk.embedder.embed(texts)

        async def aclose(self) -> None:
            """Nothing is held."""

    late = asyncio.create_task(
        learn(database, ToldReasoner(answer(SECRET)), SlowEmbedder(), talk.user_id, talk.id, QUICK)
    )
    await asyncio.wait_for(reached.wait(), 30)
    async with database.as_user(talk.user_id) as connection:
        await erasure.forget_all(connection, talk.user_id, keep_conversations=True)
    go_on.set()
    assert (await late).status == "lost"
    assert (await episodes(talk), await talk.texts()) == ([], [])


async def test_what_is_kept_to_read_is_not_told_by_a_later_summary(database: Database) -> None:
    talk = await Talk(database).open()
    await talk.say(LINE)
    async with database.as_user(talk.user_id) as connection:
        await erasure.forget_all(connection, talk.user_id, keep_conversations=True)
    reasoner = ToldReasoner(orjson.dumps({"summary": "The user painted a lake."}).decode())
    config = SummaryConfig(every=1, keep=0)
    await summarise(database, reasoner, talk.user_id, talk.id, config)
    assert reasoner.prompts == []
    await talk.say("I painted a lake.")
    await summarise(database, reasoner, talk.user_id, talk.id, config)
    # nor when the summary is begun anew, since something that was said later is forgotten
    await talk.learn(ToldReasoner(answer()))
    (episode,) = await episodes(talk)
    await talk.teach(
        "My dog is called Biscuit.", fact(1, "My dog is called Biscuit", "The user's dog is called Biscuit")
    )
    await forget(talk, await id_of(talk, "Biscuit"))
    assert (await talk.row())["summary_seq"] == 0
    await summarise(database, reasoner, talk.user_id, talk.id, config)
    assert ["lake" in prompt for prompt in reasoner.prompts] == [True, True]
    assert [prompt for prompt in reasoner.prompts if CANARY in prompt] == []
    assert [e["message_id"] for e in await episodes(talk)] == [episode["message_id"]]


async def accept(talk: Talk, content: str) -> turns.Accepted:
    new = NewTurn(talk.user_id, talk.id, uuid7(), uuid7(), content, uuid4().bytes)
    async with talk.database.as_user(talk.user_id) as connection:
        return await turns.accept(connection, new, Gate(("general",)), 1.5)


async def test_what_the_owner_added_stands_in_the_profile_until_it_is_forgotten(database: Database) -> None:
    talk = await Talk(database).open()
    async with database.as_user(talk.user_id) as connection:
        added = await add_fact(
            connection, talk.owner, kind="user", text=CANARY, route="general", due_at=None, pinned=True, vector=None
        )
        assert CANARY in (await read_profile(connection, talk.user_id, "general", "Mira")).text
    await forget(talk, added)
    async with database.as_user(talk.user_id) as connection:
        assert CANARY not in (await read_profile(connection, talk.user_id, "general", "Mira")).text


async def test_an_erased_account_has_no_rows_and_late_writers_write_none(
    database: Database, superuser_url: str
) -> None:
    talk = await Talk(database).open()
    other = await Talk(database, "eve").open()
    await other.say("Somebody else's words")
    await talk.teach(LINE, SECRET)
    turn = await accept(talk, f"Do you remember {CANARY}?")
    age = "SELECT birth_date, known_minor, known_below FROM users WHERE user_id = $1"
    async with database.as_user(talk.user_id) as connection:
        await connection.execute(
            "UPDATE users SET birth_date = '1990-01-01', known_minor = true, known_below = 13 WHERE user_id = $1",
            talk.user_id,
        )
        done = await erasure.erase_user(connection, talk.user_id)
        assert [tuple(row) for row in await connection.fetch(age, talk.user_id)] == [(None, False, None)]
    assert done.running
    # the reply that was being written, and the learner that had read
    async with database.as_user(talk.user_id) as connection:
        reply = Reply(uuid7(), f"Yes, {CANARY}.", "stop", "b", "m", scripted=True)
        assert await turns.commit(connection, talk.user_id, turn.turn_id, 1, reply) is None
    with pytest.raises(ConversationNotFoundError):
        await accept(talk, CANARY)
    assert (await talk.learn(ToldReasoner(answer(SECRET)))).status == "gone"
    assert await rows_with(superuser_url, CANARY) == {}
    assert await rows_with(superuser_url, "ana") == {}  # the subject's name
    left = {t: n for t, n in (await rows_with(superuser_url, str(talk.user_id))).items() if n}
    assert left == {"users": 1}
    assert await contents(other) == ["Somebody else's words"]
    async with database.as_user(other.user_id) as connection:
        assert len(await list_memories(connection, other.user_id, Filter(layer="fact"), 5)) == 0


async def test_erasing_and_chatting_at_once_neither_fails_nor_leaves_anything(
    database: Database, superuser_url: str
) -> None:
    talk = await Talk(database).open()
    stop = asyncio.Event()

    async def chat() -> None:
        while not stop.is_set():
            try:
                turn = await accept(talk, f"My secret place is {CANARY}.")
                async with database.as_user(talk.user_id) as connection:
                    reply = Reply(uuid7(), f"{CANARY} it is.", "stop", "b", "m", scripted=True)
                    await turns.commit(connection, talk.user_id, turn.turn_id, 1, reply)
                await talk.learn(ToldReasoner(answer(SECRET)))
            except ConversationNotFoundError:
                return
            except StoreUnavailableError:
                continue  # a deadlock with the erasure: told as "come again", which the writer and the learner do

    chatting = asyncio.create_task(chat())
    await asyncio.sleep(0.5)
    for _ in range(5):
        try:
            async with database.as_user(talk.user_id) as connection:
                await erasure.erase_user(connection, talk.user_id)
            break
        except StoreUnavailableError:
            continue
    await asyncio.wait_for(chatting, 10)
    stop.set()
    assert await rows_with(superuser_url, CANARY) == {}


@pytest.mark.parametrize(
    ("content", "quotes", "left"),
    [
        ("I like tea. I like milk.", ["I like tea"], f"{MARK}. I like milk."),
        ("I like  Tea", ["i like tea"], MARK),
        ("tea, tea and tea", ["tea"], f"{MARK}, {MARK} and {MARK}"),
        ("I like tea", ["I like coffee"], MARK),
        ("it is forgotten", ["forgotten"], f"it is {MARK}"),
        ("a b c", ["a", "c"], f"{MARK} b {MARK}"),
    ],
)
def test_words_are_taken_out(content: str, quotes: list[str], left: str) -> None:
    assert without(content, quotes) == left
