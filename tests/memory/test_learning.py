"""Learning happens once per message, whatever fails on the way."""

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import replace

import asyncpg
import pytest

from memory import transcript
from memory.learning import catch_up
from memory.postgres import Database, PoolConfig
from memory.vault import MasterKey, Vault
from tests.memory.learning_kit import AWAY, QUICK, Talk, ToldReasoner, answer, fact, opened

MOVED = fact(1, "I moved to Lisbon", "The user moved to Lisbon.")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def talk(database: Database) -> Talk:
    return await Talk(database).open()


async def test_a_fact_keeps_the_quote_and_the_message_it_came_from(talk: Talk) -> None:
    first = await talk.say("I moved to Lisbon, and it rains.", ("assistant", "Lisbon in the rain!"))
    learnt = await talk.learn(ToldReasoner(answer(MOVED)))
    assert (learnt.status, learnt.messages, dict(learnt.facts), learnt.more) == ("learnt", 2, {"added": 1}, False)
    (row,) = await talk.facts()
    assert (row["text"], row["quote"], row["source_seq"]) == ("The user moved to Lisbon.", "I moved to Lisbon", first)
    assert (row["kind"], row["slot"], row["status"], row["route"]) == ("user", "home", "active", "general")
    assert row["embedded"]
    assert await talk.count("fact_sources") == 1
    assert await talk.count("episodes") == 2
    assert await talk.count("outbox") == 0
    assert (await talk.row())["learnt_seq"] == 2


async def test_waking_again_changes_nothing(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")
    reasoner = ToldReasoner(answer(MOVED))
    statuses = [(await talk.learn(reasoner)).status for _ in range(4)]
    assert statuses == ["learnt", "caught_up", "caught_up", "caught_up"]
    assert len(reasoner.prompts) == 1
    assert len(await talk.facts()) == 1


async def test_two_learners_at_once_learn_once(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")
    results = await asyncio.gather(*(talk.learn(ToldReasoner(answer(MOVED))) for _ in range(6)))
    assert sorted(result.status for result in results).count("learnt") == 1
    assert {result.status for result in results} <= {"learnt", "busy", "caught_up"}
    assert len(await talk.facts()) == 1


async def test_a_learner_that_lost_its_lease_writes_nothing(talk: Talk) -> None:
    """The watermark holds even when two learners believe to be the only one: the lease only saves work."""
    await talk.say("I moved to Lisbon.")
    gate, inside = asyncio.Event(), asyncio.Event()

    class Slow(ToldReasoner):
        async def structured(self, *arguments: object, **options: object) -> str:
            inside.set()
            await gate.wait()
            return answer(MOVED)

    slow = asyncio.create_task(talk.learn(Slow("")))
    await inside.wait()
    async with talk.database.system() as connection:
        await connection.execute("UPDATE conversations SET learning_until = NULL")
    assert (await talk.learn(ToldReasoner(answer(MOVED)))).status == "learnt"
    gate.set()
    assert (await slow).status == "lost"
    assert len(await talk.facts()) == 1


async def test_a_batch_at_a_time_until_all_is_learnt(talk: Talk) -> None:
    await talk.say(*(f"My lucky number is {n}." for n in range(1, 8)))
    reasoner = ToldReasoner(
        lambda prompt: answer(
            *(
                fact(at, line.partition("user: ")[2], f"The user's {line.partition('My ')[2]}")
                for at, line in enumerate(prompt.splitlines(), 1)
            )
        )
    )
    config = replace(QUICK, batch=3)
    more, rounds = True, 0
    while more:
        learnt = await talk.learn(reasoner, config)
        more, rounds = learnt.more, rounds + 1
    assert rounds == 3
    assert [row["source_seq"] for row in await talk.facts()] == [1, 2, 3, 4, 5, 6, 7]
    assert (await talk.row())["learnt_seq"] == 7


async def test_a_model_that_is_away_costs_no_attempt(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")
    for _ in range(8):
        assert (await talk.learn(ToldReasoner(AWAY))).status == "postponed"
    row = await talk.row()
    assert (row["learn_attempts"], row["learnt_seq"]) == (0, 0)
    async with talk.database.system() as connection:
        outbox = await connection.fetchrow("SELECT delays, not_before > now() AS later, dispatched_at FROM outbox")
    assert outbox is not None
    assert (outbox["delays"], outbox["later"], outbox["dispatched_at"]) == (8, True, None)
    assert await talk.count("episodes") == 1, "searchable all the same"
    assert (await talk.learn(ToldReasoner(answer(MOVED)))).status == "learnt"


@pytest.mark.parametrize(
    "nonsense", ["", "I'm sorry, I can't do that.", '{"facts": "none"}', "[1, 2", "null", '{"fakts": []}']
)
async def test_nonsense_changes_nothing_and_is_tried_again(talk: Talk, nonsense: str) -> None:
    await talk.say("I moved to Lisbon.")
    learnt = await talk.learn(ToldReasoner(nonsense))
    assert (learnt.status, sum(learnt.refused.values())) == ("failed", 1)
    assert (await talk.row())["learnt_seq"] == 0
    assert await talk.facts() == []
    assert (await talk.learn(ToldReasoner(answer(MOVED)))).status == "learnt"
    assert len(await talk.facts()) == 1


async def test_what_can_not_be_learnt_from_is_quarantined_alone(talk: Talk) -> None:
    """One poisonous message costs itself, not its neighbours, and is shown to the operator."""
    await talk.say("I moved to Lisbon.", "POISON", "My dog is called Rex.")

    def reads(prompt: str) -> str:
        if "POISON" in prompt:
            return "nonsense"
        lines = prompt.splitlines()
        claims = [
            fact(at, "I moved to Lisbon", "The user moved to Lisbon.")
            for at, line in enumerate(lines, 1)
            if "Lisbon" in line
        ]
        claims += [
            fact(at, "My dog is called Rex", "The user's dog is called Rex.")
            for at, line in enumerate(lines, 1)
            if "Rex" in line
        ]
        return answer(*claims)

    statuses = []
    for _ in range(20):
        learnt = await talk.learn(ToldReasoner(reads))
        statuses.append(learnt.status)
        if learnt.status == "caught_up":
            break
    assert statuses.count("quarantined") == 1
    assert await talk.texts() == ["The user moved to Lisbon.", "The user's dog is called Rex."]
    async with talk.database.system() as connection:
        rows = await connection.fetch("SELECT from_seq, to_seq, reason FROM quarantine")
    assert [tuple(row) for row in rows] == [(2, 2, "not_json")]
    assert (await talk.row())["learnt_seq"] == 3
    assert await talk.count("episodes") == 3, "it can still be recalled"


async def test_a_learner_killed_again_and_again_does_not_block_the_conversation(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")
    async with talk.database.system() as connection:  # five attempts that never came back
        await connection.execute("UPDATE conversations SET learn_attempts = 5")
    assert (await talk.learn(ToldReasoner(answer(MOVED)))).status == "quarantined"
    async with talk.database.system() as connection:
        assert await connection.fetchval("SELECT reason FROM quarantine") == "interrupted"
    await talk.say("My dog is called Rex.")
    rex = fact(1, "My dog is called Rex", "The user's dog is called Rex.")
    assert (await talk.learn(ToldReasoner(answer(rex)))).status == "learnt"


async def test_a_bug_is_noted_and_raised(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")
    with pytest.raises(ZeroDivisionError):
        await talk.learn(ToldReasoner(ZeroDivisionError()))
    row = await talk.row()
    assert (row["learn_attempts"], row["learn_error"], row["learning_until"]) == (1, "ZeroDivisionError", None)


async def test_a_shutdown_is_no_attempt_and_frees_the_conversation(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")
    inside = asyncio.Event()

    class Hanging(ToldReasoner):
        async def structured(self, *arguments: object, **options: object) -> str:
            inside.set()
            await asyncio.Event().wait()
            return ""

    task = asyncio.create_task(talk.learn(Hanging("")))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    row = await talk.row()
    assert (row["learn_attempts"], row["learning_until"]) == (0, None)
    assert (await talk.learn(ToldReasoner(answer(MOVED)))).status == "learnt"


async def test_a_deleted_conversation_teaches_nothing(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")

    class Deleting(ToldReasoner):
        """The user deletes the conversation while the model is reading it."""

        async def structured(self, *arguments: object, **options: object) -> str:
            async with talk.database.as_user(talk.user_id) as connection:
                await transcript.delete_conversation(connection, talk.user_id, talk.id)
            return answer(MOVED)

    assert (await talk.learn(Deleting(""))).status == "lost"
    assert await talk.facts() == []
    assert await talk.count("episodes") == 0
    assert (await talk.learn(ToldReasoner(answer(MOVED)))).status == "gone"
    assert await talk.count("outbox") == 0


async def test_a_message_that_arrives_while_learning_is_not_forgotten(talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")

    class Interrupted(ToldReasoner):
        async def structured(self, *arguments: object, **options: object) -> str:
            await talk.say("My dog is called Rex.")
            return answer(MOVED)

    assert (await talk.learn(Interrupted(""))).more
    assert await talk.count("outbox") == 1
    rex = fact(1, "My dog is called Rex", "The user's dog is called Rex.")
    assert (await talk.learn(ToldReasoner(answer(rex)))).facts["added"] == 1
    assert await talk.count("outbox") == 0


async def test_somebody_elses_conversation_is_gone(database: Database, talk: Talk) -> None:
    await talk.say("I moved to Lisbon.")
    stranger = Talk(database, "bob")
    stranger.id = talk.id
    assert (await stranger.learn(ToldReasoner(answer(MOVED)))).status == "gone"
    assert await talk.count("outbox") == 1
    assert await talk.facts() == []


async def test_an_answer_that_was_regenerated_is_not_learnt_from(talk: Talk) -> None:
    await talk.say(
        "Tell me of yourself.", ("assistant", "I grew up by the sea."), ("assistant", "I grew up in a lighthouse.")
    )
    async with talk.database.system() as connection:  # the second answer stands beside the first, not behind it
        await connection.execute(
            "UPDATE messages SET parent_id = (SELECT id FROM messages WHERE seq = 1) WHERE seq = 3"
        )
    reasoner = ToldReasoner(answer())
    assert (await talk.learn(reasoner)).messages == 3
    (prompt,) = reasoner.prompts
    assert "lighthouse" in prompt
    assert "sea" not in prompt
    assert await talk.count("episodes") == 3


async def test_what_is_learnt_is_sealed_where_text_is_sealed(database_url: str, superuser_url: str) -> None:
    database = Database(PoolConfig(database_url, 2, 2), Vault(MasterKey(os.urandom(32))))
    talk = await Talk(database).open()
    await talk.say("I live in Lisbonville.", *("lol" for _ in range(40)))

    def reads(prompt: str) -> str:
        if prompt.startswith("Summary so far"):
            return '{"summary": "The user lives in Lisbonville."}'
        return (
            answer(fact(1, "I live in Lisbonville", "The user lives in Lisbonville."))
            if "ville" in prompt
            else answer()
        )

    done = await catch_up(database, ToldReasoner(reads), talk.embedder, talk.user_id, talk.id, QUICK)
    assert done.facts == {"added": 1}
    assert await talk.texts() == ["The user lives in Lisbonville."], "and opens for its user"
    admin = await asyncpg.connect(superuser_url)
    try:
        for table in ("facts", "fact_sources", "profiles", "episodes"):
            rows = [str(row[0]) for row in await admin.fetch(f"SELECT t::text FROM {table} t")]
            assert rows, table
            assert not any("lisbonville" in row.lower() for row in rows), table
        assert "\x01s1." in await admin.fetchval("SELECT summary FROM conversations")
    finally:
        await admin.close()
        await database.close()


async def test_long_messages_are_read_a_few_at_a_time(talk: Talk) -> None:
    """A prompt that overflows a small model's context would cost attempts, and minutes."""
    await talk.say(*("long " * 300 for _ in range(5)), "x" * 50_000, "short")
    reasoner = ToldReasoner(answer())
    done = await catch_up(talk.database, reasoner, talk.embedder, talk.user_id, talk.id, replace(QUICK, stretch=20))
    assert (done.status, done.messages) == ("learnt", 7)
    assert len(reasoner.prompts) == 3
    assert max(map(len, reasoner.prompts)) < QUICK.characters + 200
