"""Where a background response is read on, however far its writer had come: nothing is lost, and nothing comes twice."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.chat.upstream import Upstream
from service.llm.errors import BackendError, CannotContinueError
from service.llm.ports import Resume
from service.llm.responses import ResponseReader
from service.llm.sse import ServerSentEvent

PIECES = st.lists(st.text("ab ü", min_size=1, max_size=4), min_size=1, max_size=30)


def events(pieces: list[str]) -> list[ServerSentEvent]:
    """All that the server has numbered: the response's beginning, its text, a thought between, and its end."""
    told: list[dict[str, Any]] = [{"type": "response.created", "response": {"id": "resp_1"}}]
    for at, piece in enumerate(pieces):
        if at % 5 == 3:
            told.append({"type": "response.reasoning_summary_text.delta", "delta": "hm"})
        told.append({"type": "response.output_text.delta", "delta": piece})
    told.append({"type": "response.completed", "response": {"id": "resp_1", "usage": {}}})
    return [ServerSentEvent("", orjson.dumps({**event, "sequence_number": at})) for at, event in enumerate(told)]


@given(PIECES, st.data())
def test_reading_on_gives_the_rest(pieces: list[str], data: st.DataObject) -> None:
    stream, base, whole = events(pieces), "before ", "before " + "".join(pieces)
    cut = data.draw(st.integers(1, len(stream)))
    upstream, reader, text = Upstream(), ResponseReader("b"), base
    upstream.begin("b", "resp_1", len(text))
    at = 0
    while at < cut:
        size = data.draw(st.integers(1, 5))
        delta = reader.take(stream[at : min(cut, at + size)])
        at += size
        if delta is not None:
            text += delta.text
            assert delta.position is not None
            upstream.moved(delta.position, len(text))
    checkpointed = data.draw(st.integers(len(base), len(text)))
    stored = orjson.loads(orjson.dumps(upstream.record(checkpointed)))
    # who takes over knows at least the beginning, and at most all that was read
    known = text[: data.draw(st.integers(len(base), len(text)))]
    resume = Upstream(stored).resume(known)
    assert resume is not None
    heir = ResponseReader("b", resume)
    rest = heir.take([event for event in stream if resume.after is None or number(event) > resume.after])
    assert heir.failure is None
    assert known + (rest.text if rest else "") == whole


def number(event: ServerSentEvent) -> int:
    found: int = orjson.loads(event.data)["sequence_number"]
    return found


def failure(resume: Resume, *told: dict[str, Any]) -> BackendError | None:
    reader = ResponseReader("b", resume)
    reader.take([ServerSentEvent("", orjson.dumps(event)) for event in told])
    return reader.failure


def test_another_text_than_was_shown_is_not_gone_on_with() -> None:
    said = {"type": "response.output_text.delta", "delta": "Something else"}
    assert isinstance(failure(Resume("resp_1", 3, "Once upon"), said), CannotContinueError)
    end = {"type": "response.completed", "response": {"id": "resp_1"}}
    assert isinstance(failure(Resume("resp_1", 3, "Once upon"), end), CannotContinueError)


@pytest.mark.parametrize("kind", ["response.failed", "response.cancelled", "error"])
def test_a_response_that_failed_is_an_interruption(kind: str) -> None:
    found = failure(Resume("resp_1", 3), {"type": kind, "response": {"id": "resp_1", "error": {"message": "oh"}}})
    assert found is not None
    assert found.retryable


def test_garbage_is_an_interruption() -> None:
    reader = ResponseReader("b")
    reader.take([ServerSentEvent("", b'{"type": "response.output_text.delta"}')])
    assert reader.failure is not None
    assert Upstream().resume("text") is None
