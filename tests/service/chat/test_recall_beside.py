"""What is recalled beside the accept is used only for a conversation that was accepted as it had been found."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from prometheus_client import REGISTRY
from uuid_utils.compat import uuid7

from memory.errors import EmbedderBusyError
from memory.ports import Vectors
from memory.postgres import Database
from service.chat.recall import Looked, Recalled, Recaller
from sessions.state import Buffer, Line, Session
from sessions.store import Live
from tests.memory.learning_kit import HashEmbedder

OWNER, CONVERSATION = uuid7(), uuid7()
BUFFER = Buffer(OWNER, CONVERSATION, uuid7(), "Mel", "", "UTC", "", 0, (Line(3, "user", "hello"),))
SESSION = Session(OWNER, CONVERSATION, "general", None, 1, ())
RECALLED = Recalled(tokens=7)


def test_it_is_used_for_the_same_route_and_the_same_past() -> None:
    assert Looked(Live(SESSION, BUFFER), RECALLED).recalled_for("general", BUFFER) is RECALLED


@pytest.mark.parametrize(
    ("looked", "route", "buffer"),
    [
        (Looked(Live(SESSION, BUFFER), RECALLED), "intimate", BUFFER),
        (Looked(Live(replace(SESSION, route="intimate"), BUFFER), RECALLED), "general", BUFFER),
        (Looked(Live(SESSION, BUFFER), RECALLED), "general", replace(BUFFER, head_id=uuid7())),
        (Looked(Live(SESSION, BUFFER), replace(RECALLED, degraded=True)), "general", BUFFER),
        (Looked(Live(None, BUFFER), RECALLED), "general", BUFFER),
        (Looked(Live(SESSION, BUFFER)), "general", BUFFER),
    ],
    ids=["accepted elsewhere", "found elsewhere", "another past", "it failed", "route unknown", "nothing was"],
)
def test_it_is_not_used_otherwise(looked: Looked, route: str, buffer: Buffer) -> None:
    assert looked.recalled_for(route, buffer) is None


class Crowded:
    """A database that is asked for nothing."""

    def __init__(self, *, has_room: bool) -> None:
        self.has_room = has_room

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.mark.parametrize(
    ("live", "has_room"), [(Live(SESSION, BUFFER), False), (Live(SESSION, None), True), (Live(None, BUFFER), True)]
)
async def test_nothing_is_begun_that_the_database_has_no_room_for(live: Live, has_room: bool) -> None:
    recaller = Recaller(cast("Database", Crowded(has_room=has_room)), HashEmbedder(), 500, 5)

    async def found() -> Live:
        return live

    assert await recaller.look(found(), recaller.embed("hello"), "hello", None) == Looked(live)


class Busy(HashEmbedder):
    async def embed(self, texts: Sequence[str], *, question: bool = False) -> Vectors:
        raise EmbedderBusyError(f"{len(texts)} too many" if question else "never")


async def test_a_question_without_a_vector_is_counted_and_looked_for_by_its_words() -> None:
    def counted() -> float:
        return REGISTRY.get_sample_value("rapport_recalls_by_words_total", {"why": "busy"}) or 0.0

    before = counted()
    recaller = Recaller(cast("Database", Crowded(has_room=False)), Busy(), 500, 5)
    assert await recaller.embed("hello") is None
    assert counted() == before + 1
