"""The audit finds what should not be remembered, and little of it is there."""

import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest
from uuid_utils.compat import uuid7

from memory.audit import audit_memories, keep_report, latest_report
from memory.facts import key_of
from memory.learning import LearnConfig, catch_up, learn
from memory.postgres import Database
from memory.slots import slot_of, stored
from memory.summaries import SummaryConfig
from memory.transcript import ImportedMessage, append_imported
from service.dev.model import EmbeddedModel
from service.llm.config import BackendConfig, parse_backends
from service.llm.pool import Backends
from service.llm.reasoner import BackendReasoner
from tests.memory.dev_conversations import SETS, conversations
from tests.memory.learning_kit import SAID, Talk, fact, opened


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    async with opened(database_url) as database:
        yield database


async def plant(talk: Talk, text: str, quote: str, *, kind: str = "user", seq: int = 1, days: int = 0) -> None:
    """Write a fact past the gate, as a bug or an older release might have."""
    async with talk.database.as_user(talk.user_id) as connection:
        message = await connection.fetchval(
            "SELECT id FROM messages WHERE user_id = $1 AND conversation_id = $2 AND seq = $3",
            talk.user_id,
            talk.id,
            seq,
        )
        await connection.execute(
            """INSERT INTO facts (user_id, id, kind, topic, slot, key, text, quote, conversation_id, message_id, source_seq, ordinal,
                extractor, route, said_at, valid_from)
            VALUES ($1, $2, $3, 'other', $4, $5, $6, $7, $8, $9, $10, $11, 'planted', 'general', $12, $12)""",
            talk.user_id,
            uuid7(),
            kind,
            stored(slot_of(kind, text), talk.user_id.bytes),
            key_of(talk.user_id.bytes, kind, text),
            text,
            quote,
            talk.id,
            message or uuid7(),
            seq,
            len(await talk.facts()),
            SAID + timedelta(days=days),
        )


JUNK: dict[str, list[tuple[str, str, dict[str, Any]]]] = {
    "unsupported": [("The user lives in Paris.", "I live in Paris", {})],
    "misattributed": [("The user grew up by the sea.", "I grew up by the sea", {"seq": 2})],
    "duplicates": [("The user's dog is called Rex.", "my dog is called Rex", {})],
    "near_duplicates": [("The user's big dog is called Rex.", "my dog is called Rex", {})],
    "recall_loops": [
        ("The companion's dog is called Rex.", "my dog is called Rex too", {"kind": "companion", "seq": 2})
    ],
    "contradictions": [
        ("The user lives in Lisbon.", "I live in Lisbon", {}),
        ("The user lives in Porto.", "I live in Porto", {"days": 1}),
    ],
    "secrets": [("The user's password is rosebud99.", "my password is rosebud99", {})],
}


@pytest.mark.parametrize("what", JUNK)
async def test_each_kind_of_junk_is_found_and_nothing_else(database: Database, what: str) -> None:
    talk = await Talk(database).open()
    await talk.say(
        "Hi, my dog is called Rex, I live in Lisbon, no, I live in Porto, my password is rosebud99.",
        ("assistant", "I grew up by the sea, and my dog is called Rex too."),
    )
    await plant(talk, "The user's dog is called Rex.", "my dog is called Rex")
    clean = await audit_memories(database)
    assert (clean.facts, clean.junk) == (1, 0)
    for text, quote, options in JUNK[what]:
        await plant(talk, text, quote, **options)
    report = await audit_memories(database)
    assert {name: number for name, number in report.found.items() if number} == {what: 1}
    assert report.junk == 1
    assert not report.clean


@pytest.mark.parametrize("kind", ["user", "companion", "both", "open_loop"])
@pytest.mark.parametrize(
    ("said", "text"),
    [
        ("I know you are allergic to peanuts.", "The user is allergic to peanuts."),
        ("I know you are allergic to peanuts.", "The companion is allergic to peanuts."),
        ("I am curious how the interview on Friday went.", "The user has an interview on Friday."),
    ],
)
async def test_what_the_companion_recalled_is_found_whatever_its_kind(
    database: Database, kind: str, said: str, text: str
) -> None:
    talk = await Talk(database).open()
    await talk.say("Hello.", ("assistant", said))
    await plant(talk, text, said, kind=kind, seq=2)
    report = await audit_memories(database)
    assert {name: number for name, number in report.found.items() if number} == {"misattributed": 1}


async def test_a_report_is_kept(database: Database) -> None:
    assert await latest_report(database) is None
    talk = await Talk(database).open()
    await talk.teach("I live in Lisbon.", fact(1, "I live in Lisbon", "The user lives in Lisbon."))
    report = await audit_memories(database)
    await keep_report(database, report)
    assert await latest_report(database) == report.as_json()
    assert (report.facts, report.users, report.rate) == (1, 1, 0.0)


async def test_another_users_facts_are_not_compared(database: Database) -> None:
    for name in ("ana", "bob"):
        talk = await Talk(database, name).open()
        await talk.teach("I live in Lisbon.", fact(1, "I live in Lisbon", "The user lives in Lisbon."))
    report = await audit_memories(database)
    assert (report.facts, report.users, report.junk) == (2, 2, 0)


@pytest.mark.parametrize("name", SETS)
async def test_little_junk_comes_of_real_conversations(
    database: Database, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    backends = Backends((BackendConfig(name="scripted", kind="scripted"),))
    messages = 0
    for conversation in conversations(name, most=6 if name == "beam-dev" else 3):
        talk = await Talk(database, conversation.id).open(companion=conversation.companion)
        said = [ImportedMessage(uuid7(), *line) for line in conversation.lines[:300]]
        async with database.as_user(talk.user_id) as connection:
            await append_imported(connection, talk.user_id, talk.id, said)
        config = LearnConfig(stretch=1000)
        await catch_up(database, BackendReasoner(backends), talk.embedder, talk.user_id, talk.id, config)
        messages += len(said)
    await backends.aclose()
    report = await audit_memories(database)
    with capsys.disabled():
        sys.stdout.write(
            f"\n  {name}: {messages} messages, {report.facts} facts, junk {report.junk} ({report.rate:.2%})\n"
        )
    assert report.facts >= 5
    assert report.clean, report.as_json()


@pytest.mark.model
@pytest.mark.timeout(600)
async def test_a_model_that_talks_nonsense_leaves_no_junk(
    database: Database, embedded_model: EmbeddedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    """The smallest real model: its JSON is valid, its content is not. What it claims must not be believed."""
    backends = Backends(parse_backends(json.dumps([embedded_model.backend()]), {}))
    (conversation,) = conversations("locomo-dev", most=1)
    talk = await Talk(database, conversation.id).open(companion=conversation.companion)
    said = [ImportedMessage(uuid7(), *line) for line in conversation.lines[:12]]
    async with database.as_user(talk.user_id) as connection:
        await append_imported(connection, talk.user_id, talk.id, said)
    config = LearnConfig(batch=4, lease_seconds=30, summary=SummaryConfig(every=1_000_000))
    refused: Counter[str] = Counter()
    claims = 0
    for _ in range(40):
        learnt = await learn(
            database, BackendReasoner(backends, patience=300), talk.embedder, talk.user_id, talk.id, config
        )
        refused += learnt.refused
        claims += learnt.refused.total() + learnt.facts.total()
        if not learnt.more and learnt.status == "caught_up":
            break
    await backends.aclose()
    report = await audit_memories(database)
    with capsys.disabled():
        sys.stdout.write(
            f"\n  {len(said)} messages, {claims} claims, {report.facts} believed; refused: {dict(refused)}\n"
        )
    assert claims
    assert report.clean, report.as_json()
