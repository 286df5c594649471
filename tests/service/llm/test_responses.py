"""Background responses against a server that has them: what is sent, what is read on, and what goes the usual way."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

import orjson
import pytest

from service.llm.config import BackendConfig
from service.llm.errors import CannotContinueError
from service.llm.ports import Position, Resume
from service.llm.responses import ResponseReader, ResponsesBackend
from service.llm.sse import ServerSentEvent
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.service.llm.reading import HELLO, read, read_until_error

LASTING = replace(HELLO, outlives=True)


@pytest.fixture
async def backend(misbehaving: Misbehaving) -> AsyncIterator[ResponsesBackend]:
    extra = {"reasoning_effort": "low"}
    made = ResponsesBackend(
        BackendConfig(name="odd", url=misbehaving.url, model="normal", api="responses", extra=extra)
    )
    yield made
    await made.aclose()


async def test_a_reply_tells_its_id_first_and_its_place_always(
    backend: ResponsesBackend, misbehaving: Misbehaving
) -> None:
    begun: list[tuple[str, str]] = []

    async def hear(name: str, response_id: str) -> None:
        begun.append((name, response_id))

    text, _, last = await read(backend.stream(replace(LASTING, on_begun=hear)))
    assert text == REPLY
    assert last.finish_reason == "stop"
    assert last.usage is not None
    assert last.position == Position(begun[0][1], 22)
    assert [name for name, _ in begun] == ["odd"]
    [asked] = [request["responses"] for request in misbehaving.state()["requests"]]
    assert asked["reasoning"] == {"effort": "low"}
    assert asked["max_output_tokens"] == 200
    assert asked.keys().isdisjoint({"messages", "stream_options", "max_tokens", "reasoning_effort"})


async def test_it_is_read_on_by_another_and_cancelled(backend: ResponsesBackend) -> None:
    slow = replace(LASTING, model="slow")
    text, place = "", None
    async with aclosing(backend.stream(slow)) as deltas:
        async for delta in deltas:
            text, place = text + delta.text, delta.position or place
            if text.count(" ") >= 3:
                break
    assert place is not None
    rest, _, last = await read(backend.stream(replace(slow, resume=Resume(place.response_id, place.after))))
    assert (text + rest, last.finish_reason) == (REPLY, "stop")
    again, _, _ = await read(backend.stream(replace(slow, resume=Resume(place.response_id, None, text))))
    assert text + again == REPLY
    assert await backend.cancel(place.response_id)
    assert not await backend.cancel("resp_0")


async def test_what_is_gone_can_not_be_read_on(backend: ResponsesBackend) -> None:
    heard, error = await read_until_error(backend.stream(replace(LASTING, resume=Resume("resp_0", 3))))
    assert not heard
    assert isinstance(error, CannotContinueError)


async def test_the_rest_goes_the_usual_way(backend: ResponsesBackend, misbehaving: Misbehaving) -> None:
    for request in (HELLO, replace(LASTING, schema={"type": "object"}), replace(LASTING, prefix="word1 word2 ")):
        await read(backend.stream(request))
    assert all("body" in request for request in misbehaving.state()["requests"])


async def test_a_server_without_background_mode_answers_all_the_same(backend: ResponsesBackend) -> None:
    text, _, _ = await read(backend.stream(replace(LASTING, model="no-background")))
    assert text == REPLY


def test_a_nul_is_left_out_of_a_response() -> None:
    """Of what it says, thinks and is called: whoever takes over compares it with what was kept, which has none."""
    events = [
        {"type": "response.created", "response": {"id": "resp\x00_1"}},
        {"type": "response.reasoning_text.delta", "delta": "Let me\x00 think."},
        {"type": "response.output_text.delta", "delta": "wo\x00rd1 "},
        {"type": "response.output_text.delta", "delta": "\x00word2"},
        {"type": "response.incomplete", "response": {"incomplete_details": {"reason": "content\x00_filter"}}},
    ]
    reader = ResponseReader("odd")
    said = reader.take([ServerSentEvent("", orjson.dumps(event)) for event in events])
    assert said is not None
    assert (said.text, said.reasoning) == ("word1 word2", "Let me think.")
    assert (reader.response_id, reader.finish_reason) == ("resp_1", "content_filter")
    again = ResponseReader("odd", Resume("resp_1", None, "word1 w"))
    rest = again.take([ServerSentEvent("", orjson.dumps(event)) for event in events])
    assert rest is not None
    assert (again.failure, rest.text) == (None, "ord2")
