"""Disclosures, breaks and referrals: due when the law says, told exactly once, whoever tells them."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from memory.postgres import Database, PoolConfig
from service.compliance.config import DutyConfig
from service.compliance.crisis_rules import Crisis, RulesError, detector, load_rules, plain_words
from service.compliance.duty import BREAK, CRISIS, DISCLOSURE, Duty, Notice, yearly_report
from service.compliance.texts import load_texts

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


class Chat:
    """One user's messages, with the turns that tell their notices."""

    def __init__(self, database: Database, duty: Duty) -> None:
        self.database, self.duty = database, duty
        self.user_id, self.conversation_id, self.seq = uuid4(), uuid4(), 0

    async def exists(self, **user: Any) -> None:
        async with self.database.as_user(self.user_id) as connection:
            await connection.execute(
                "INSERT INTO users (user_id, issuer, subject, birth_date, known_minor) VALUES ($1, 'i', 's', $2, $3)",
                self.user_id,
                user.get("birth_date"),
                user.get("known_minor", False),
            )

    async def ask(self, turn_id: UUID, text: str, now: datetime) -> list[Notice]:
        async with self.database.as_user(self.user_id) as connection:
            await connection.execute(
                """INSERT INTO turns (user_id, id, conversation_id, user_message_id, status, route, lock_epoch, created_at)
                VALUES ($1, $2, $3, $2, 'running', 'general', 0, $4) ON CONFLICT DO NOTHING""",
                self.user_id,
                turn_id,
                self.conversation_id,
                now,
            )
            return await self.duty.due_notices(connection, self.user_id, self.conversation_id, turn_id, text)

    async def say(self, text: str, now: datetime) -> list[str]:
        self.seq += 1
        async with self.database.as_user(self.user_id) as connection:
            await connection.execute(
                """INSERT INTO messages (user_id, conversation_id, seq, id, role, content, created_at)
                VALUES ($1, $2, $3, $4, 'user', $5, $6)""",
                self.user_id,
                self.conversation_id,
                self.seq,
                uuid4(),
                text,
                now,
            )
        return [notice.kind for notice in await self.ask(uuid4(), text, now)]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    database = Database(PoolConfig(database_url, size=4, overflow=8))
    yield database
    await database.close()


@pytest.fixture
def chat(database: Database) -> Chat:
    return Chat(database, Duty(DutyConfig()))


async def test_it_is_said_at_the_start_and_every_three_hours(chat: Chat) -> None:
    told = [(minute, kind) for minute in range(0, 400, 10) for kind in await chat.say("hello", NOON + minute * MINUTE)]
    assert told == [(0, DISCLOSURE), (180, DISCLOSURE), (360, DISCLOSURE)]
    chat.conversation_id = uuid4()
    assert await chat.say("hello", NOON + 395 * MINUTE) == [DISCLOSURE]


async def test_nobody_is_told_before_they_write_and_all_who_come_back_are_told(chat: Chat) -> None:
    assert await chat.say("hello", NOON) == [DISCLOSURE]
    assert await chat.say("hello", NOON + 179 * MINUTE) == []
    assert await chat.say("hello", NOON + 72 * HOUR) == [DISCLOSURE]


async def test_whoever_writes_the_turn_finds_the_same_notices(chat: Chat) -> None:
    """A writer that died between storing and telling leaves them to its successor, on whichever instance."""
    turn = uuid4()
    first = await chat.ask(turn, "I want to die", NOON)
    assert [notice.kind for notice in first] == [CRISIS, DISCLOSURE]
    successor = Chat(chat.database, Duty(DutyConfig()))
    successor.user_id, successor.conversation_id = chat.user_id, chat.conversation_id
    assert await successor.ask(turn, "I want to die", NOON) == first
    assert await successor.ask(uuid4(), "still", NOON + MINUTE) == []


async def test_of_many_at_the_same_moment_one_tells(chat: Chat) -> None:
    found = await asyncio.gather(*(chat.ask(uuid4(), "I want to die", NOON) for _ in range(12)))
    told = [notice.kind for notices in found for notice in notices]
    assert sorted(told) == [DISCLOSURE, CRISIS]
    async with chat.database.system() as connection:
        report = await yearly_report(connection, 2026)
    assert {(count.kind, count.total) for count in report} == {(DISCLOSURE, 1), (CRISIS, 1)}


@pytest.mark.parametrize("user", [{"birth_date": date(2012, 1, 1)}, {"known_minor": True}])
async def test_minors_are_reminded_of_a_break_every_hour_of_one_sitting(chat: Chat, user: dict[str, Any]) -> None:
    await chat.exists(**user)
    told = []
    for minute in range(0, 200, 10):
        if minute == 90:
            chat.conversation_id = uuid4()  # another conversation is no break
        told += [(minute, kind) for kind in await chat.say("hello", NOON + minute * MINUTE)]
    breaks = [minute for minute, kind in told if kind == BREAK]
    assert breaks == [60, 120, 180]


async def test_who_was_away_has_had_a_break_and_adults_need_none(chat: Chat, database: Database) -> None:
    await chat.exists(birth_date=date(2012, 1, 1))
    for minute in (0, 20, 40, 80, 100, 120):  # forty minutes between the third and the fourth
        assert BREAK not in await chat.say("hello", NOON + minute * MINUTE)
    assert BREAK in await chat.say("hello", NOON + 140 * MINUTE)
    adult = Chat(database, chat.duty)
    await adult.exists(birth_date=date(1980, 1, 1))
    for minute in range(0, 300, 10):
        assert BREAK not in await adult.say("hello", NOON + minute * MINUTE)


async def test_a_crisis_is_answered_with_people_who_can_help_and_not_drowned_in_repetition(chat: Chat) -> None:
    turn = uuid4()
    notice = (await chat.ask(turn, "I can't go on, I want to kill myself", NOON))[0]
    assert notice.kind == CRISIS
    assert "988" in notice.text
    assert notice.data == {"kind": CRISIS, "text": notice.text, "id": f"{CRISIS} first"}
    assert await chat.say("I still want to die", NOON + 5 * MINUTE) == []
    assert await chat.say("I still want to die", NOON + 10 * MINUTE) == [CRISIS]


async def test_a_report_counts_and_names_nobody_and_outlives_erasure(chat: Chat, database: Database) -> None:
    for month in (1, 1, 2):
        one = Chat(database, chat.duty)
        await one.ask(uuid4(), "ich will nicht mehr leben", datetime(2026, month, 3, tzinfo=UTC))
        async with database.as_user(one.user_id) as connection:
            await connection.execute("DELETE FROM notices WHERE user_id = $1", one.user_id)
    async with database.system() as connection:
        report = await yearly_report(connection, 2026)
        assert await yearly_report(connection, 2025) == []
    crises = [(count.month.month, count.protocol, count.total) for count in report if count.kind == CRISIS]
    assert crises == [(1, "rules-de-2026-11", 2), (2, "rules-de-2026-11", 1)]


# --- the rules

RULES = load_rules()
DETECT = detector(RULES)


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Je pense au suicide, je ne sais pas quoi faire", "fr"),
        ("I keep thinking about suicide", "en"),
        ("Ich denke oft an Suizid", "de"),
        ("Pienso mucho en el suicidio", "es"),
        ("I WANT... to — die!!!", "en"),
        ("i want\nto\tdie", "en"),
        ("ich möchte mich heute Nacht umbringen", "de"),
        ("I’m going to kill fucking myself", "en"),
        ("I want to d\u200bie", "en"),
        ("ｉ　ｗａｎｔ　ｔｏ　ｄｉｅ", "en"),
        ("x" * 30_000 + " i want to die", "en"),
    ],
)
def test_a_crisis_is_recognised_in_its_language(text: str, language: str) -> None:
    found = DETECT(text)
    assert found is not None
    assert found.language == language


@pytest.mark.parametrize("text", ["", "hello", "...", "\0", "I want to dye my hair", "a" * 50_000])
def test_ordinary_talk_is_left_alone(text: str) -> None:
    assert DETECT(text) is None


def test_every_language_names_people_who_can_help_and_has_all_texts() -> None:
    texts = load_texts()
    for rules in RULES:
        assert rules.resources
        assert all(resource["contact"] in rules.referral for resource in rules.resources)
        assert len(rules.examples) >= 5
        assert len(rules.not_examples) >= 4
        assert rules.language in texts


def test_another_detector_is_asked_beside_the_rules_and_never_instead() -> None:
    asked = []

    def careful(text: str) -> Crisis | None:
        asked.append(text)
        return Crisis("en", "model-1", "help") if "bridge" in text else None

    both = detector(RULES, careful)
    assert both("I stand on the bridge") == Crisis("en", "model-1", "help")
    assert (found := both("I want to die on this bridge")) is not None
    assert found.protocol.startswith("rules-en")
    assert asked == ["I stand on the bridge"]


GOOD = """
version = "1"
language = "xx"
[referral]
text = "{resources}"
resources = [{ region = "r", name = "n", contact = "c" }]
[rules]
common = []
phrases = ["red * button"]
examples = ["the red big shiny button"]
not_examples = ["red and a very very big button"]
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("red * button", "red *"),
        ("red * button", "blue"),
        ('"the red big shiny button"', '"nothing of it"'),
        ('"red and a very very big button"', '"red button"'),
        ('version = "1"', ""),
        ("{resources}", "{unknown}"),
        ("phrases", "phrase"),
        ("[rules]", "[rules"),
    ],
)
def test_rules_that_are_not_whole_stop_the_start(tmp_path: Path, old: str, new: str) -> None:
    (tmp_path / "xx.toml").write_text(GOOD)
    assert Duty(DutyConfig(crisis_rules=tmp_path)).rules[0].protocol == "rules-xx-1"
    (tmp_path / "xx.toml").write_text(GOOD.replace(old, new))
    with pytest.raises(RulesError):
        Duty(DutyConfig(crisis_rules=tmp_path))


def test_a_service_without_a_protocol_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(RulesError, match="holds no crisis rules"):
        Duty(DutyConfig(crisis_rules=tmp_path))


def test_nothing_to_hide_behind() -> None:
    assert plain_words("  I’M\u200b  só—Tired!! ") == "im so tired"
