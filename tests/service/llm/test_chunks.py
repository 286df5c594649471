"""Whatever a server sends, a reader meets deltas and backend errors, nothing else."""

import contextlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.llm.chunks import ReplyAssembler
from service.llm.errors import BackendError, BackendInterruptedError
from service.llm.failures import complaint_in, from_chunk, from_response
from service.llm.sse import EventStreamParser, ServerSentEvent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 10**9) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "delta",
                    "content",
                    "error",
                    "message",
                    "usage",
                    "finish_reason",
                    "type",
                    "text",
                    "detail",
                    "refusal",
                    "reasoning",
                    "thinking",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)
CHUNKS = st.fixed_dictionaries({}, optional={"choices": st.lists(JSON, max_size=2), "usage": JSON, "error": JSON})


@given(st.lists(JSON | CHUNKS, max_size=4), st.sampled_from(["", "error"]))
def test_any_json_is_a_delta_or_an_error(chunks: list[Any], name: str) -> None:
    assembler = ReplyAssembler("b")
    assembler.take([ServerSentEvent(name, orjson.dumps(chunk)) for chunk in chunks])
    assert assembler.failure is None or isinstance(assembler.failure, BackendError)


@given(JSON | CHUNKS)
def test_any_whole_answer_is_a_delta_or_an_error(answer: Any) -> None:
    assembler = ReplyAssembler("b")
    with contextlib.suppress(BackendError):
        assembler.whole(answer)
        assert assembler.done


@given(st.binary(max_size=200))
def test_any_bytes_are_a_delta_or_an_error(stream: bytes) -> None:
    parser, assembler = EventStreamParser(), ReplyAssembler("b")
    assembler.take(parser.feed(stream) + parser.close())
    assert assembler.failure is None or isinstance(assembler.failure, BackendInterruptedError)


@given(st.integers(300, 599), JSON)
def test_any_refusal_has_an_error(status: int, body: Any) -> None:
    error = from_response(status, {}, orjson.dumps(body), backend="b")
    assert isinstance(error, BackendError)
    assert error.told
    assert len(str(error)) < 700


def test_what_the_user_wrote_is_not_repeated_by_a_validation_error() -> None:
    """vLLM and LiteLLM answer 422 with the whole input."""
    body = {"detail": [{"type": "extra_forbidden", "loc": ["body", "x"], "msg": "Extra inputs", "input": "my secret"}]}
    complaint = complaint_in(body)
    assert complaint is not None
    assert "secret" not in complaint.message
    assert "extra_forbidden" in complaint.message


@pytest.mark.parametrize("begun", [False, True])
def test_text_that_came_with_an_error_counts(begun: bool) -> None:
    assembler = ReplyAssembler("b")
    if begun:
        assembler.take([ServerSentEvent("", b'{"choices":[{"delta":{"content":"a"}}]}')])
    delta = assembler.take(
        [
            ServerSentEvent("", b'{"choices":[{"delta":{"content":"b"}}]}'),
            ServerSentEvent("", b'{"error":{"message":"x"}}'),
        ]
    )
    assert delta is not None
    assert delta.text == "b"
    assert isinstance(assembler.failure, BackendInterruptedError)
    assert from_chunk({"choices": []}, backend="b", begun=begun) is None
