from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest

from memory.extraction import Said, extract
from service.llm.config import BackendConfig, Script
from service.llm.errors import CannotContinueError
from service.llm.pool import Backends
from service.llm.ports import ChatMessage, ChatRequest
from service.llm.reasoner import BackendReasoner
from service.llm.scripted import ScriptedBackend
from tests.service.llm.reading import read

FACTS = {
    "type": "object",
    "properties": {
        "facts": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "text": {"type": "string"},
                    "quote": {"type": "string"},
                    "kind": {"enum": ["user", "companion", "both", "open_loop"]},
                    "message": {"type": "integer"},
                    "confidence": {"type": "number", "maximum": 1},
                },
            },
        }
    },
}
ASKED = ChatRequest(
    messages=(
        ChatMessage(
            "system", "You are Ada.\nWhat you know:\n- The user is allergic to peanuts\n- The user lives in Lisbon"
        ),
        ChatMessage("user", "Which peanuts may I eat?"),
    )
)


def backend(**script: Any) -> ScriptedBackend:
    return ScriptedBackend(BackendConfig(name="s", kind="scripted", script=Script(**script)))


async def test_it_repeats_what_it_was_told_that_bears_on_the_question() -> None:
    text, _, last = await read(backend().stream(ASKED))
    assert "allergic to peanuts" in text
    assert "Lisbon" not in text
    assert "scripted" in text
    assert last.finish_reason == "stop"
    assert backend().scripted


async def test_it_reads_the_memory_block_of_a_message_and_does_not_repeat_it() -> None:
    asked = "<memory>\n- The user is allergic to peanuts\n- The user lives in Lisbon\n</memory>\n\nWhere do I live?"
    text, _, _ = await read(backend().stream(ChatRequest(messages=(ChatMessage("user", asked),))))
    assert text.startswith("You said: “Where do I live?” I remember: The user lives in Lisbon.")
    assert "<memory>" not in text


async def test_a_begun_reply_is_continued_exactly() -> None:
    whole, _, _ = await read(backend().stream(ASKED))
    for cut in range(len(whole)):
        rest, _, _ = await read(backend().stream(replace(ASKED, prefix=whole[:cut])))
        assert whole[:cut] + rest == whole


async def test_another_beginning_is_refused() -> None:
    with pytest.raises(CannotContinueError):
        await read(backend().stream(replace(ASKED, prefix="Quite another")))


async def test_numbered_replies_count_their_words() -> None:
    text, _, last = await read(backend(style="numbered", words=30, words_per_delta=4).stream(ASKED))
    assert text == " ".join(str(number) for number in range(1, 31))
    assert last.usage is not None
    assert last.usage.completion_tokens == 30


async def test_a_limit_ends_the_reply_and_says_so() -> None:
    text, _, last = await read(backend(style="numbered", words=30).stream(replace(ASKED, max_tokens=3)))
    assert (text, last.finish_reason) == ("1 2 3 ", "length")


@pytest.mark.parametrize(
    ("said", "quote", "text", "kind"),
    [
        ("My name is Priya.", "My name is Priya", "The user's name is Priya.", "user"),
        ("I live in Lisbon", "I live in Lisbon", "The user lives in Lisbon.", "user"),
        ("I am allergic to peanuts, sadly", "I am allergic to peanuts", "The user is allergic to peanuts.", "user"),
        (
            "I have an interview on Friday and I'm nervous",
            "I have an interview on Friday",
            "The user has an interview on Friday.",
            "open_loop",
        ),
        ("My dog Biscuit sleeps", "My dog Biscuit", "The user's dog is called Biscuit.", "user"),
    ],
)
async def test_extraction_finds_facts_with_literal_quotes(said: str, quote: str, text: str, kind: str) -> None:
    answer, _, _ = await read(
        backend().stream(ChatRequest(messages=(ChatMessage("user", f"[m3] User: {said}"),), schema=FACTS))
    )
    fact = orjson.loads(answer)["facts"][0]
    assert fact["quote"] == quote
    assert fact["quote"] in said
    assert fact["text"] == text
    assert fact["kind"] == kind
    assert fact["message"] == 3


async def test_small_talk_holds_no_facts_and_the_companion_is_not_quoted() -> None:
    dialogue = "User: hello there\nAssistant: My name is Ada."
    answer, _, _ = await read(backend().stream(ChatRequest(messages=(ChatMessage("user", dialogue),), schema=FACTS)))
    assert orjson.loads(answer) == {"facts": []}


async def test_it_answers_what_memory_asks_of_a_reasoner() -> None:
    lines = (
        ("user", "I live in Lisbon and I am allergic to peanuts"),
        ("assistant", "I live in Rome."),
        ("user", "My sister Ana called"),
        ("user", "I have an interview on Friday"),
    )
    now = datetime(2026, 11, 22, tzinfo=UTC)
    said = [Said(seq, uuid4(), role, None, text, now) for seq, (role, text) in enumerate(lines, 1)]
    pool = Backends([BackendConfig(name="s", kind="scripted")], learn=False)
    found = await extract(BackendReasoner(pool), said)
    await pool.aclose()
    assert [(candidate.line, candidate.quote) for candidate in found.candidates] == [
        (1, "I live in Lisbon"),
        (1, "I am allergic to peanuts"),
        (3, "My sister Ana"),
        (4, "I have an interview on Friday"),
    ]
    assert not found.refused


@pytest.mark.parametrize(
    ("asked", "properties", "answer"),
    [
        ("A: x\nB: y", {"verdict": {"type": "string", "enum": ["same", "replaces", "both"]}}, {"verdict": "both"}),
        (
            "Summary so far: The user moved.\n[1] user: I live in Porto",
            {"summary": {"type": "string"}},
            {"summary": "The user moved. The user lives in Porto."},
        ),
        ("hello", {"count": {"type": "integer"}, "sure": {"type": "boolean"}}, {"count": 0, "sure": False}),
    ],
)
async def test_other_questions_get_the_answer_that_changes_nothing(asked: str, properties: Any, answer: Any) -> None:
    schema = {"type": "object", "properties": properties}
    text, _, _ = await read(backend().stream(ChatRequest(messages=(ChatMessage("user", asked),), schema=schema)))
    assert orjson.loads(text) == answer
