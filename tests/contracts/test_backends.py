"""What every ChatBackend does, whichever it is."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from service.dev.model import EmbeddedModel
from service.llm.config import BackendConfig, Script
from service.llm.errors import CannotContinueError
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.ports import ChatBackend, ChatMessage, ChatRequest
from service.llm.scripted import ScriptedBackend
from tests.misbehaving.process import Misbehaving

REQUEST = ChatRequest(
    messages=(ChatMessage("system", "Be kind."), ChatMessage("user", "Hello")), max_tokens=24, temperature=0
)
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "string", "maxLength": 20}},
    "required": ["answer"],
    "additionalProperties": False,
}


@pytest.fixture(params=["scripted", "misbehaving", pytest.param("embedded", marks=pytest.mark.model)])
async def backend(request: pytest.FixtureRequest) -> AsyncIterator[ChatBackend]:
    made: ChatBackend
    if request.param == "scripted":
        made = ScriptedBackend(BackendConfig(name="one", kind="scripted", script=Script(word_delay=0.002)))
    elif request.param == "misbehaving":
        server: Misbehaving = request.getfixturevalue("misbehaving")
        made = OpenAICompatibleBackend(BackendConfig(name="one", url=server.url, model="normal"))
    else:
        model: EmbeddedModel = request.getfixturevalue("embedded_model")
        made = OpenAICompatibleBackend(BackendConfig.model_validate(model.backend()))
    yield made
    await made.aclose()


async def whole(backend: ChatBackend, request: ChatRequest) -> str:
    return "".join([delta.text async for delta in backend.stream(request)])


async def test_the_last_delta_and_only_it_finishes(backend: ChatBackend) -> None:
    deltas = [delta async for delta in backend.stream(REQUEST)]
    assert len(deltas) > 2
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason in {"stop", "length"}
    assert "".join(delta.text for delta in deltas)


async def test_usage_comes_with_the_end(backend: ChatBackend) -> None:
    deltas = [delta async for delta in backend.stream(REQUEST)]
    assert all(delta.usage is None for delta in deltas[:-1])
    assert deltas[-1].usage is not None
    assert deltas[-1].usage.prompt_tokens > 0


async def test_text_comes_as_it_is_made(backend: ChatBackend) -> None:
    first, last = 0.0, 0.0
    async for delta in backend.stream(REQUEST):
        last = asyncio.get_running_loop().time()
        if delta.text and not first:
            first = last
    assert last > first


async def test_a_prefix_is_continued_or_refused_before_the_first_token(backend: ChatBackend) -> None:
    reply = await whole(backend, REQUEST)
    begun = replace(REQUEST, prefix=reply[: len(reply) // 2])
    try:
        rest = await whole(backend, begun)
    except CannotContinueError:
        return
    assert not rest.startswith(begun.prefix)


async def test_closing_early_is_quiet_and_leaves_the_backend_usable(backend: ChatBackend) -> None:
    stream = backend.stream(REQUEST)
    async for delta in stream:
        if delta.text:
            break
    await stream.aclose()  # type: ignore[attr-defined]
    assert await whole(backend, REQUEST)


async def test_many_replies_at_once_do_not_mix(backend: ChatBackend) -> None:
    alone = await whole(backend, REQUEST)
    replies = await asyncio.gather(*(whole(backend, REQUEST) for _ in range(4)))
    assert all(replies)
    if backend.name == "one":  # a real model's batches round differently
        assert set(replies) == {alone}


async def test_a_schema_brings_json(backend: ChatBackend) -> None:
    answer = await whole(backend, replace(REQUEST, schema=SCHEMA, max_tokens=60))
    assert answer.lstrip().startswith("{")


async def test_the_models_are_listed(backend: ChatBackend) -> None:
    assert backend.model in await backend.models()
