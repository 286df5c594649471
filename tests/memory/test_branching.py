"""What was said beside the way to a conversation's latest message is kept, and not recalled as if it had been said."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from uuid_utils.compat import uuid7

from memory import erasure, reindex, transcript, turns
from memory.curation import Filter, list_memories
from memory.gates import Gate
from memory.retrieval import RecallQuery, recall
from memory.summaries import SummaryConfig, summarise
from memory.turns import NewTurn, Reply
from tests.memory.learning_kit import SAID, Talk, ToldReasoner, answer, fact, opened

GATE = Gate(("general",))
ALL_AT_ONCE = SummaryConfig(every=1, keep=0, chunk=100)


@pytest.fixture
async def talk(database_url: str) -> AsyncIterator["Branching"]:
    async with opened(database_url) as database:
        made = Branching(database)
        await made.open()
        yield made


class Branching(Talk):
    """A conversation that can be edited, answered anew, gone on with, and learnt from at any moment."""

    async def turn(self, text: str, reply: str, *, stopped: bool = False, **how: Any) -> tuple[UUID, UUID]:
        """Gives the ids of the message and of its reply."""
        new = NewTurn(self.user_id, self.id, uuid7(), uuid7(), text, uuid4().bytes, **how)
        async with self.database.as_user(self.user_id) as connection:
            accepted = await turns.accept(connection, new, GATE, 30)
        done = Reply(uuid7(), reply, "stop", "b", "m", scripted=True, stopped=stopped)
        async with self.database.as_user(self.user_id) as connection:
            assert await turns.commit(connection, self.user_id, new.turn_id, 1, done) is not None
        return accepted.message_id, done.message_id

    async def learnt(self) -> None:
        await self.learn(ToldReasoner(answer()))
        # each message was made recallable, whichever way it is on
        assert await self.count("episodes") == await self.count("messages")

    async def found(self, question: str) -> set[str]:
        (vector,) = await self.embedder.embed([question])
        query = RecallQuery(self.user_id, question, vector, ("general",), 500, 8, SAID + timedelta(days=1))
        async with self.database.as_user(self.user_id) as connection:
            return {item.text.partition(": ")[2] for item in await recall(connection, query)}

    async def listed(self, *statuses: str) -> set[str]:
        wanted = Filter(layer="episode", statuses=statuses)
        async with self.database.as_user(self.user_id) as connection:
            return {item.text for item in await list_memories(connection, self.user_id, wanted, 50)}

    async def go_on_from(self, message_id: UUID) -> None:
        async with self.database.as_user(self.user_id) as connection:
            await transcript.choose_head(connection, self.user_id, self.id, message_id)


@pytest.mark.parametrize("learnt_before", [True, False])
async def test_words_that_were_replaced_are_not_recalled(talk: Branching, learnt_before: bool) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    old = await talk.turn("My parrot is called Zorro", "What a name for a parrot, Zorro")
    await talk.turn("The parrot eats mangos", "Mangos for a parrot")
    if learnt_before:
        await talk.learnt()
        assert "My parrot is called Zorro" in await talk.found("What is my parrot called?")
    await talk.turn("My parrot is called Bingo", "Bingo it is, your parrot", parent_id=greeting)
    await talk.learnt()
    beside = {
        "My parrot is called Zorro",
        "What a name for a parrot, Zorro",
        "The parrot eats mangos",
        "Mangos for a parrot",
    }
    found = await talk.found("What is my parrot called?")
    assert "My parrot is called Bingo" in found
    assert not found & beside
    assert await talk.listed("superseded") == beside
    assert "My parrot is called Bingo" in await talk.listed("active")
    # and the way back is a way back
    await talk.go_on_from(old[1])
    found = await talk.found("What is my parrot called?")
    assert "My parrot is called Zorro" in found
    assert not found & {"My parrot is called Bingo", "Bingo it is, your parrot", "The parrot eats mangos"}
    await talk.turn("Indeed, the parrot", "The parrot indeed")
    await talk.learnt()
    assert "My parrot is called Zorro" in await talk.found("What is my parrot called?")


@pytest.mark.parametrize("learnt_before", [True, False])
async def test_an_alternative_that_was_not_chosen_is_not_recalled(talk: Branching, learnt_before: bool) -> None:
    asked, first = await talk.turn("Invent a name for my parrot", "Let us call the parrot Caruso")
    if learnt_before:
        await talk.learnt()
    _, second = await talk.turn("Invent a name for my parrot", "The parrot shall be Puccini", answers=asked)
    await talk.learnt()
    assert await talk.listed("superseded") == {"Let us call the parrot Caruso"}
    found = await talk.found("Which name did the parrot get, Caruso or Puccini?")
    assert "The parrot shall be Puccini" in found
    assert "Let us call the parrot Caruso" not in found
    await talk.go_on_from(first)
    assert await talk.listed("superseded") == {"The parrot shall be Puccini"}
    await talk.go_on_from(second)
    assert await talk.listed("superseded") == {"Let us call the parrot Caruso"}


@pytest.mark.parametrize("learnt_before", [True, False])
async def test_of_a_reply_that_was_gone_on_with_the_whole_is_recalled(talk: Branching, learnt_before: bool) -> None:
    asked, begun = await talk.turn("Tell of the parrot", "The parrot flew over", stopped=True)
    if learnt_before:
        await talk.learnt()
        assert "The parrot flew over" in await talk.found("Where did the parrot fly?")
    request = {"continues": {"turn_id": str(uuid4()), "message_id": str(begun)}}
    await talk.turn(
        "Tell of the parrot",
        "The parrot flew over Lisbon",
        answers=asked,
        prefix="The parrot flew over",
        request=request,
    )
    await talk.learnt()
    found = await talk.found("Where did the parrot fly?")
    assert "The parrot flew over Lisbon" in found
    assert "The parrot flew over" not in found
    await talk.turn("Thank you", "You are welcome")
    await talk.learnt()
    assert await talk.listed("superseded") == {"The parrot flew over"}


async def test_the_first_words_can_be_replaced_too(talk: Branching) -> None:
    await talk.turn("My parrot is called Zorro", "Hello, Zorro")
    await talk.learnt()
    await talk.turn("My parrot is called Bingo", "Hello, Bingo", at_root=True)
    await talk.learnt()
    assert await talk.listed("superseded") == {"My parrot is called Zorro", "Hello, Zorro"}
    assert await talk.listed("active") == {"My parrot is called Bingo", "Hello, Bingo"}


async def test_each_message_is_learnt_from_once_whatever_way_it_is_on(talk: Branching) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    await talk.turn("My parrot is called Zorro", "Hello, Zorro")
    await talk.turn("My parrot is called Bingo", "Hello, Bingo", parent_id=greeting)
    reasoner = ToldReasoner(answer())
    await talk.learn(reasoner)
    row = await talk.row()
    assert row["learnt_seq"] == row["next_seq"] - 1
    asked = len(reasoner.prompts)
    await talk.go_on_from(greeting)
    await talk.learn(reasoner)
    assert len(reasoner.prompts) == asked


async def test_a_way_that_is_left_while_it_is_learnt_from_is_left(talk: Branching) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    kept = {"Good morning to you", "Good morning"}
    for number in range(12):
        await talk.turn(f"My parrot number {number} is Zorro", f"Zorro {number}", parent_id=greeting)
        await asyncio.gather(
            talk.learn(ToldReasoner(answer())),
            talk.turn(f"No, {number} is Bingo", f"Bingo {number}", parent_id=greeting),
        )
        await talk.learnt()
        assert await talk.listed("active") == kept | {f"No, {number} is Bingo", f"Bingo {number}"}


async def test_what_is_left_of_words_beside_the_way_stays_beside_it(talk: Branching) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    await talk.turn("My parrot is called Zorro. The parrot eats mangos.", "What a name")
    await talk.learn(ToldReasoner(answer(fact(3, "My parrot is called Zorro", "The user's parrot is called Zorro."))))
    await talk.turn("My parrot is called Bingo", "Hello, Bingo", parent_id=greeting)
    await talk.learnt()
    (known,) = await talk.facts()
    async with talk.database.as_user(talk.user_id) as connection:
        done = await erasure.forget(connection, talk.user_id, known["id"])
        assert await reindex.make_recallable(connection, talk.user_id, done.redacted) == 1
    left = "[forgotten]. The parrot eats mangos."
    assert left in await talk.listed("superseded")
    assert left not in await talk.found("What does the parrot eat?")


def retold(prompt: str) -> str:
    """A summary that leaves nothing out of what it is made of."""
    so_far, *lines = prompt.splitlines()
    told = [so_far.partition(": ")[2], *(f"{line.partition(': ')[2]}." for line in lines)]
    return orjson.dumps({"summary": " ".join(told)}).decode()


async def summary(talk: Branching, config: SummaryConfig = ALL_AT_ONCE) -> str:
    """The summary, once whatever wants to be told is told."""
    await talk.learnt()
    while await summarise(talk.database, ToldReasoner(retold), talk.user_id, talk.id, config):
        pass
    return str((await talk.row())["summary"])


@pytest.mark.parametrize("summarised_before", [True, False])
async def test_words_that_were_replaced_are_not_summarised(talk: Branching, summarised_before: bool) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    old = await talk.turn("My parrot is called Zorro", "What a name for a parrot")
    if summarised_before:
        assert "Zorro" in await summary(talk)
    await talk.turn("My parrot is called Bingo", "What a name indeed", parent_id=greeting)
    assert "Zorro" not in (await talk.row())["summary"]
    told = await summary(talk)
    assert "Good morning to you" in told
    assert "Bingo" in told
    assert "Zorro" not in told
    await talk.go_on_from(old[1])
    assert "Bingo" not in (await talk.row())["summary"]
    told = await summary(talk)
    assert "Zorro" in told
    assert "Bingo" not in told


@pytest.mark.parametrize("summarised_before", [True, False])
async def test_what_was_not_chosen_is_not_summarised(talk: Branching, summarised_before: bool) -> None:
    asked, first = await talk.turn("Invent a name for my parrot", "Let us call the parrot Caruso")
    if summarised_before:
        assert "Caruso" in await summary(talk)
    await talk.turn("Invent a name for my parrot", "The parrot shall be Puccini", answers=asked)
    told = await summary(talk)
    assert "Puccini" in told
    assert "Caruso" not in told
    await talk.go_on_from(first)
    assert (await talk.row())["summary"] == ""
    told = await summary(talk)
    assert "Caruso" in told
    assert "Puccini" not in told


@pytest.mark.parametrize("summarised_before", [True, False])
async def test_a_reply_that_was_gone_on_with_is_summarised_once(talk: Branching, summarised_before: bool) -> None:
    asked, begun = await talk.turn("Tell of the parrot", "The parrot flew over", stopped=True)
    if summarised_before:
        assert "flew over" in await summary(talk)
    request = {"continues": {"turn_id": str(uuid4()), "message_id": str(begun)}}
    whole = "The parrot flew over Lisbon"
    await talk.turn("Tell of the parrot", whole, answers=asked, prefix="The parrot flew over", request=request)
    assert (await summary(talk)).count("flew over") == 1


async def test_a_way_that_is_left_while_it_is_summarised_is_not_told(talk: Branching) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    await talk.turn("My parrot is called Zorro", "What a name for a parrot")
    await talk.learnt()

    class Leaving(ToldReasoner):
        async def structured(self, *arguments: Any, **options: Any) -> str:
            await talk.turn("My parrot is called Bingo", "What a name indeed", parent_id=greeting)
            return retold(arguments[2])

    await summarise(talk.database, Leaving(""), talk.user_id, talk.id, ALL_AT_ONCE)
    assert (await talk.row())["summary"] == ""


async def test_a_summary_of_what_was_said_before_the_fork_stays(talk: Branching) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    await talk.turn("My parrot is called Zorro", "What a name for a parrot")
    told = await summary(talk, SummaryConfig(every=3, keep=2, chunk=100))
    assert "Good morning to you" in told
    assert "Zorro" not in told
    await talk.turn("My parrot is called Bingo", "What a name indeed", parent_id=greeting)
    assert (await talk.row())["summary"] == told
    await talk.learnt()
    assert (await talk.row())["summary"] == told


async def broken(talk: Branching, asked: UUID, **how: Any) -> None:
    """Ask for another reply, which fails."""
    new = NewTurn(talk.user_id, talk.id, uuid7(), uuid7(), "?", uuid4().bytes, answers=asked, **how)
    async with talk.database.as_user(talk.user_id) as connection:
        await turns.accept(connection, new, GATE, 30)
    async with talk.database.as_user(talk.user_id) as connection:
        assert await turns.fail(connection, talk.user_id, new.turn_id, 1, {"code": "backend_unavailable"}, "")


@pytest.mark.parametrize("learnt_before", [True, False])
async def test_another_reply_that_fails_leaves_the_way_as_it_was(talk: Branching, learnt_before: bool) -> None:
    asked, _ = await talk.turn("My parrot is called Zorro", "Hello, Zorro")
    _, last = await talk.turn("The parrot eats mangos", "Mangos for a parrot")
    if learnt_before:
        await talk.learnt()
    await broken(talk, asked)
    await broken(talk, asked, prefix="Hello", request={"continues": {"turn_id": str(uuid4()), "message_id": None}})
    assert (await talk.row())["head_id"] == last
    following, _ = await talk.turn("And bananas", "Bananas too")
    async with talk.database.as_user(talk.user_id) as connection:
        message = await transcript.read_message(connection, talk.user_id, talk.id, following)
    assert message.parent_id == last
    await talk.learnt()
    assert await talk.listed("superseded") == set()


async def test_a_message_that_fails_is_the_way_on_all_the_same(talk: Branching) -> None:
    """Other words than before are said, whether or not they are answered."""
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    await talk.turn("My parrot is called Zorro", "Hello, Zorro")
    new = NewTurn(talk.user_id, talk.id, uuid7(), uuid7(), "It is called Bingo", b"x", parent_id=greeting)
    async with talk.database.as_user(talk.user_id) as connection:
        await turns.accept(connection, new, GATE, 30)
        assert await turns.fail(connection, talk.user_id, new.turn_id, 1, {"code": "backend_unavailable"}, "")
    assert (await talk.row())["head_id"] == new.message_id
    await talk.learnt()
    assert await talk.listed("superseded") == {"My parrot is called Zorro", "Hello, Zorro"}


async def test_another_reply_on_a_branch_that_was_left_brings_all_of_it_back(talk: Branching) -> None:
    _, greeting = await talk.turn("Good morning to you", "Good morning")
    await talk.turn("My parrot is called Zorro", "Hello, Zorro")
    asked, _ = await talk.turn("The parrot eats mangos", "Mangos for a parrot")
    await talk.turn("My parrot is called Bingo", "Hello, Bingo", parent_id=greeting)
    await talk.learnt()
    await talk.turn("The parrot eats mangos", "So many mangos", answers=asked)
    await talk.learnt()
    assert await talk.listed("superseded") == {"Mangos for a parrot", "My parrot is called Bingo", "Hello, Bingo"}
