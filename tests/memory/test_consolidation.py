"""What becomes of a fact beside those that are known: nothing twice, nothing lost, nothing replaced that still holds."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime, timedelta

import pytest
from uuid_utils.compat import uuid7

from memory.consolidation import ask_about, decide, undecided
from memory.errors import ReasonerRefusedError
from memory.extraction import Said
from memory.facts import KnownFact, NewFact, key_of
from memory.learning import LearnConfig
from memory.slots import slot_of, stored, topic_of
from tests.memory.learning_kit import AWAY, QUICK, SAID, Talk, ToldReasoner, answer, fact, opened

USER = uuid7()
LATER = SAID + timedelta(days=30)


def known(text: str, *, kind: str = "user", at: datetime = SAID, pinned: bool = False) -> KnownFact:
    slot = stored(slot_of(kind, text), USER.bytes)
    return KnownFact(
        uuid7(), kind, topic_of(text), slot, text, key_of(USER.bytes, kind, text), "active", pinned, at, at, "Mira"
    )


def new(text: str, *, kind: str = "user", at: datetime = LATER) -> NewFact:
    slot = slot_of(kind, text)
    return NewFact(
        id=uuid7(),
        kind=kind,
        topic=topic_of(text),
        slot=stored(slot, USER.bytes),
        value=slot.value if slot else "",
        text=text,
        quote=text,
        source=Said(1, uuid7(), "user", None, text, at),
        conversation_id=uuid7(),
        ordinal=0,
        extractor="test",
        route="general",
        companion="Mira",
        valid_from=at,
        due_at=None,
        key=key_of(USER.bytes, kind, text),
    )


# (what is known, what is said then, what becomes of it)
PAIRS = [
    ("The user lives in Lisbon.", "The user moved to Porto.", "supersede"),
    ("The user lives in Lisbon.", "The user lives in Lisbon, Portugal.", "merge"),
    ("The user moved to Lisbon.", "The user lives in Lisbon.", "confirm"),
    ("The user's name is Tom.", "The user's name is Tom.", "confirm"),
    ("The user is vegetarian.", "The user is not vegetarian any more.", "supersede"),
    ("The user is vegetarian.", "The user is vegan.", "supersede"),
    ("The user likes jazz.", "The user hates jazz.", "supersede"),
    ("The user likes jazz.", "The user likes opera.", "add"),
    ("The user's favourite film is Alien.", "The user's favourite film is Heat.", "supersede"),
    ("The user's favourite film is Alien.", "The user's favourite band is Blur.", "add"),
    ("The user is 29 years old.", "The user is 30 years old.", "supersede"),
    ("The user is married.", "The user is divorced.", "supersede"),
    ("The user has a dog.", "The user has a dog called Biscuit.", "add"),
    ("The user plays the cello in a quartet.", "The user plays the cello in a quartet on Sundays.", "merge"),
    ("The user plays the cello in a quartet on Sundays.", "The user plays the cello in a quartet.", "confirm"),
    ("The user has 2 cats.", "The user has 3 cats.", "add"),
    ("The user's sister Ana is a nurse.", "The user's sister Eva is a nurse.", "add"),
    ("The user can swim well in cold water.", "The user can't swim well in cold water.", "ask"),
    ("The user is allergic to nuts.", "The user is allergic to cats.", "add"),
    ("Der Nutzer wohnt in Köln.", "Der Nutzer wohnt in Bonn.", "supersede"),
    ("El usuario vive en Madrid.", "El usuario vive en Sevilla.", "supersede"),
    ("L'utilisateur habite à Lyon.", "L'utilisateur habite à Nantes.", "supersede"),
]


@pytest.mark.parametrize(("before", "then", "action"), PAIRS)
def test_rules_decide(before: str, then: str, action: str) -> None:
    bystander = known("The user paints boats in the garden.")
    decision = decide(new(then), [bystander, known(before)])
    assert decision.action == action
    assert bystander not in decision.known


def test_what_was_said_earlier_does_not_replace_what_was_said_later() -> None:
    """An import, or a message that waited: it becomes history."""
    assert (
        decide(new("The user lives in Lisbon.", at=SAID), [known("The user lives in Porto.", at=LATER)]).action
        == "history"
    )


def test_a_companions_facts_are_its_own() -> None:
    theirs = known("The companion likes jazz.", kind="companion")
    assert decide(new("The companion hates jazz.", kind="companion"), [theirs]).action == "supersede"
    assert decide(new("The user hates jazz."), [theirs]).action == "add"


async def test_a_model_is_asked_only_what_rules_can_not_tell() -> None:
    before, then = known("The user can swim well in cold water."), new("The user can't swim well in cold water.")
    pairs = undecided([then, new("The user likes jazz.")], [before])
    assert [(a.text, b.text) for a, b in pairs] == [(then.text, before.text)]
    for said, action in {
        '{"verdict": "replaces"}': "supersede",
        '{"verdict": "both"}': "add",
        '{"verdict": "same"}': "add",  # a denial is not the same, whatever a model says
        "no idea": "add",
        "[]": "add",
        '{"verdict": ["replaces"]}': "add",
    }.items():
        verdicts = await ask_about(ToldReasoner(said), pairs)
        assert decide(then, [before], verdicts).action == action, said
    for silence in (AWAY, ReasonerRefusedError("b: empty_reply")):
        assert decide(then, [before], await ask_about(ToldReasoner(silence), pairs)).action == "add"


@pytest.fixture
async def talk(database_url: str) -> AsyncIterator[Talk]:
    async with opened(database_url) as database:
        yield await Talk(database).open()


def claim(text: str, quote: str, **options: str) -> dict[str, object]:
    return fact(1, quote, text, **options)


async def test_history_stays_readable(talk: Talk) -> None:
    await talk.teach("I live in Lisbon.", claim("The user lives in Lisbon.", "I live in Lisbon"))
    learnt = await talk.teach("I moved to Porto.", claim("The user moved to Porto.", "I moved to Porto"), at=LATER)
    assert dict(learnt.facts) == {"superseded": 1}
    old, current = await talk.facts()
    assert (old["status"], old["superseded_by"], old["valid_to"]) == ("superseded", current["id"], LATER)
    assert (old["text"], old["valid_from"]) == ("The user lives in Lisbon.", SAID)
    assert (current["status"], current["valid_from"], current["valid_to"]) == ("active", LATER, None)
    assert current["learnt_at"] >= old["learnt_at"]


async def test_a_judge_that_refuses_costs_no_lesson(talk: Talk) -> None:
    """A content filter, or a model that says nothing: what was read is kept, and both facts hold."""
    said, denied = "I can swim well in cold water.", "I can't swim well in cold water."
    await talk.teach(said, claim("The user can swim well in cold water.", said))
    await talk.say(denied, at=LATER)
    judged = ReasonerRefusedError("b: empty_reply")
    reasoner = ToldReasoner(answer(claim("The user can't swim well in cold water.", denied)), judged)
    learnt = await talk.learn(reasoner)
    assert len(reasoner.prompts) == 2, "the judge was not asked"
    assert (learnt.status, dict(learnt.facts)) == ("learnt", {"added": 1})
    assert await talk.texts() == ["The user can swim well in cold water.", "The user can't swim well in cold water."]


async def test_an_import_of_old_messages_fills_in_history(talk: Talk) -> None:
    await talk.teach("I live in Porto.", claim("The user lives in Porto.", "I live in Porto"), at=LATER)
    await talk.teach("I live in Lisbon.", claim("The user lives in Lisbon.", "I live in Lisbon"), at=SAID)
    assert await talk.texts() == ["The user lives in Porto."]
    (old,) = [row for row in await talk.facts() if row["status"] == "superseded"]
    assert (old["valid_from"], old["valid_to"]) == (SAID, LATER)


async def test_saying_it_again_confirms_with_one_more_source(talk: Talk) -> None:
    line = claim("The user's dog is called Rex.", "My dog is called Rex")
    await talk.teach("My dog is called Rex.", line)
    assert dict((await talk.teach("My dog is called Rex!", line, at=LATER)).facts) == {"confirmed": 1}
    (row,) = await talk.facts()
    assert row["confirmations"] == 1
    assert await talk.count("fact_sources") == 2


async def test_a_fuller_statement_takes_over_the_sources_of_the_shorter(talk: Talk) -> None:
    await talk.teach(
        "I play cello in a quartet.", claim("The user plays cello in a quartet.", "I play cello in a quartet")
    )
    await talk.teach(
        "I play cello in a quartet on Sundays.",
        claim("The user plays cello in a quartet on Sundays.", "I play cello in a quartet on Sundays"),
        at=LATER,
    )
    assert await talk.texts() == ["The user plays cello in a quartet on Sundays."]
    (current,) = [row for row in await talk.facts() if row["status"] == "active"]
    async with talk.database.as_user(talk.user_id) as connection:
        sources = await connection.fetch(
            "SELECT quote FROM fact_sources WHERE fact_id = $1 ORDER BY said_at", current["id"]
        )
    assert [row["quote"] for row in sources] == ["I play cello in a quartet", "I play cello in a quartet on Sundays"]
    assert (current["confirmations"], current["valid_from"]) == (1, SAID)


async def test_what_hung_on_a_changed_fact_becomes_uncertain(talk: Talk) -> None:
    for line, text in [
        ("I live in Lisbon.", "The user lives in Lisbon."),
        ("My commute takes an hour.", "The user's commute takes an hour."),
        ("My gym is around the corner.", "The user's gym is around the corner."),
        ("My best friend from Lisbon is Rui.", "The user's best friend from Lisbon is Rui."),
        ("I'm allergic to nuts.", "The user is allergic to nuts."),
        ("My sister Ana plays chess.", "The user's sister Ana plays chess."),
    ]:
        assert (await talk.teach(line, claim(text, line.removesuffix(".")))).facts["added"] == 1, text
    await talk.teach("I moved to Porto.", claim("The user moved to Porto.", "I moved to Porto"), at=LATER)
    current = {row["text"]: row["status"] for row in await talk.facts()}
    (moved,) = [row["id"] for row in await talk.facts() if row["text"] == "The user moved to Porto."]
    assert current == {
        "The user lives in Lisbon.": "superseded",
        "The user's commute takes an hour.": "uncertain",
        "The user's gym is around the corner.": "uncertain",
        "The user's best friend from Lisbon is Rui.": "uncertain",
        "The user is allergic to nuts.": "active",
        "The user's sister Ana plays chess.": "active",
        "The user moved to Porto.": "active",
    }
    assert {row["uncertain_because"] for row in await talk.facts() if row["status"] == "uncertain"} == {moved}
    again = "My commute takes an hour."
    await talk.teach(again, claim("The user's commute takes an hour.", again), at=LATER)
    assert "The user's commute takes an hour." in await talk.texts("active"), "said again, it is certain again"


async def test_a_pinned_fact_is_not_replaced_unasked(talk: Talk) -> None:
    await talk.teach("I live in Lisbon.", claim("The user lives in Lisbon.", "I live in Lisbon"))
    async with talk.database.as_user(talk.user_id) as connection:
        await connection.execute("UPDATE facts SET pinned = true")
    await talk.teach("I moved to Porto.", claim("The user moved to Porto.", "I moved to Porto"), at=LATER)
    assert {row["text"]: row["status"] for row in await talk.facts()} == {
        "The user lives in Lisbon.": "uncertain",
        "The user moved to Porto.": "active",
    }


async def test_routes_do_not_touch_each_other(talk: Talk) -> None:
    await talk.teach("I live in Lisbon.", claim("The user lives in Lisbon.", "I live in Lisbon"))
    grown = Talk(talk.database)
    await grown.open(route="mature")
    await grown.teach("I moved to Porto.", claim("The user moved to Porto.", "I moved to Porto"), at=LATER)
    assert {(row["text"], row["route"], row["status"]) for row in await talk.facts()} == {
        ("The user lives in Lisbon.", "general", "active"),
        ("The user moved to Porto.", "mature", "active"),
    }


async def test_two_conversations_of_one_user_settle_one_after_the_other(talk: Talk) -> None:
    talks = [talk, *[await Talk(talk.database).open() for _ in range(4)]]
    line = "My dog is called Rex."
    for each in talks:
        await each.say(line)
    reasoner = ToldReasoner(answer(fact(1, "My dog is called Rex", "The user's dog is called Rex.")))
    await asyncio.gather(*(each.learn(reasoner) for each in talks))
    (row,) = await talk.facts()
    assert row["confirmations"] == 4
    assert await talk.count("fact_sources") == 5


async def test_without_a_judge_both_facts_stay(talk: Talk) -> None:
    before, then = "I can swim well in cold water.", "I can't swim well in cold water."
    await talk.teach(before, claim("The user can swim well in cold water.", before))
    await talk.say(then, at=LATER)
    config = LearnConfig(lease_seconds=QUICK.lease_seconds, judge=False)
    told = ToldReasoner(answer(fact(1, then, "The user can't swim well in cold water.")))
    assert (await talk.learn(told, config)).facts == {"added": 1}
    assert len(told.prompts) == 1


async def test_settling_sees_its_own_facts(talk: Talk, database_url: str) -> None:
    """One answer that says a thing twice, and changes its mind, leaves one current fact."""
    await talk.say("I live in Lisbon.", "No wait, I moved to Porto.")
    learnt = await talk.learn(
        ToldReasoner(
            answer(
                fact(1, "I live in Lisbon", "The user lives in Lisbon."),
                fact(1, "I live in Lisbon", "The user lives in Lisbon."),
                fact(2, "I moved to Porto", "The user moved to Porto."),
            )
        )
    )
    assert dict(learnt.facts) == {"added": 1, "superseded": 1}
    assert await talk.texts() == ["The user moved to Porto."]
