"""What was put aside is shown without its words, and learnt from once when it is tried again."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from memory import quarantine, transcript
from memory.learning import Learnt
from memory.postgres import Database
from memory.quarantine import Aside, learn_again, listed
from tests.memory.learning_kit import AWAY, QUICK, Talk, ToldReasoner, answer, fact, opened

POISON = "My dog is called Rex."
REX = answer(fact(1, "My dog is called Rex", "The user's dog is called Rex."))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


@pytest.fixture
async def talk(database: Database) -> Talk:
    """A conversation whose second message nobody could learn from."""
    talk = await Talk(database).open()
    await talk.say("I moved to Lisbon.", POISON, "I like tea.")

    def reads(prompt: str) -> str:
        return "nonsense" if POISON in prompt else answer()

    for _ in range(20):
        if (await talk.learn(ToldReasoner(reads))).status == "caught_up":
            return talk
    raise AssertionError("it was not caught up with")


async def again(talk: Talk, reasoner: ToldReasoner, aside: Aside) -> Learnt:
    return await learn_again(talk.database, reasoner, talk.embedder, aside, QUICK.reading)


async def test_it_is_listed_with_where_and_why_and_how_often_it_was_tried(talk: Talk) -> None:
    (aside,) = await listed(talk.database)
    assert (aside.conversation_id, aside.from_seq, aside.to_seq) == (talk.id, 2, 2)
    assert (aside.reason, aside.attempts) == ("not_json", QUICK.attempts)
    assert await listed(talk.database, [talk.id]) == [aside]
    assert await listed(talk.database, [talk.user_id]) == []


async def test_it_alone_is_learnt_from_and_the_watermark_stays(talk: Talk) -> None:
    (aside,) = await listed(talk.database)
    reasoner = ToldReasoner(REX)
    learnt = await again(talk, reasoner, aside)
    assert (learnt.status, learnt.messages, dict(learnt.facts)) == ("learnt", 1, {"added": 1})
    assert reasoner.prompts == [f"[1] user: {POISON}"]
    (row,) = await talk.facts()
    assert (row["text"], row["source_seq"]) == ("The user's dog is called Rex.", 2)
    assert (await talk.row())["learnt_seq"] == 3
    assert await listed(talk.database) == []
    assert await talk.count("episodes") == 3
    assert (await again(talk, reasoner, aside)).status == "lost", "it is not learnt from twice"
    assert len(await talk.facts()) == 1


async def test_of_many_tries_at_once_one_counts(talk: Talk) -> None:
    (aside,) = await listed(talk.database)
    results = await asyncio.gather(*(again(talk, ToldReasoner(REX), aside) for _ in range(6)))
    assert sorted(result.status for result in results) == ["learnt", *["lost"] * 5]
    (row,) = await talk.facts()
    assert row["confirmations"] == 0


async def test_without_the_row_that_is_taken_it_would_count_each_time(
    talk: Talk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the test above can fail."""
    (aside,) = await listed(talk.database)
    monkeypatch.setattr(quarantine, "RELEASE", "SELECT 1 WHERE $1::uuid <> $2::uuid AND $3::bigint <= $4::bigint")
    results = await asyncio.gather(*(again(talk, ToldReasoner(REX), aside) for _ in range(6)))
    assert [result.status for result in results] == ["learnt"] * 6


async def test_what_fails_again_stays_with_its_attempt_counted(talk: Talk) -> None:
    (aside,) = await listed(talk.database)
    assert (await again(talk, ToldReasoner('{"fakts": []}'), aside)).status == "failed"
    (left,) = await listed(talk.database)
    assert left.attempts == aside.attempts + 1
    assert (left.from_seq, left.since) == (aside.from_seq, aside.since)
    assert await talk.facts() == []


async def test_a_model_that_is_away_is_no_attempt(talk: Talk) -> None:
    (aside,) = await listed(talk.database)
    assert (await again(talk, ToldReasoner(AWAY), aside)).status == "postponed"
    assert await listed(talk.database) == [aside]


async def test_a_conversation_that_is_deleted_meanwhile_teaches_nothing(talk: Talk) -> None:
    (aside,) = await listed(talk.database)
    gate, inside = asyncio.Event(), asyncio.Event()

    class Slow(ToldReasoner):
        async def structured(self, *arguments: object, **options: object) -> str:
            inside.set()
            await gate.wait()
            return REX

    trying = asyncio.create_task(again(talk, Slow(""), aside))
    await inside.wait()
    async with talk.database.as_user(talk.user_id) as connection:
        assert await transcript.delete_conversation(connection, talk.user_id, talk.id)
    gate.set()
    assert (await trying).status == "gone"
    assert await talk.facts() == []
    assert await listed(talk.database) == []
