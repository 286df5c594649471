"""A real llama.cpp server: what it does, never what it says."""

from collections.abc import AsyncIterator

import orjson
import pytest

from service.dev.model import EmbeddedModel
from service.llm.config import BackendConfig
from service.llm.doctor import examine
from service.llm.errors import ContextOverflowError, KeyRefusedError
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.pool import Backends
from service.llm.ports import ChatMessage, ChatRequest, Target
from service.llm.reasoner import BackendReasoner
from tests.service.llm.reading import fixed, read

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]

SCHEMA = {
    "title": "facts",
    "type": "object",
    "properties": {
        "facts": {
            "type": "array",
            "maxItems": 2,
            "items": {
                "type": "object",
                "properties": {"quote": {"type": "string", "maxLength": 40}},
                "required": ["quote"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["facts"],
    "additionalProperties": False,
}


@pytest.fixture
def config(embedded_model: EmbeddedModel) -> BackendConfig:
    return BackendConfig.model_validate(embedded_model.backend())


@pytest.fixture
async def pool(config: BackendConfig) -> AsyncIterator[Backends]:
    backends = Backends([config], learn=False)
    yield backends
    await backends.aclose()


async def test_facts_come_as_json_of_the_schema(pool: Backends) -> None:
    examples = (("User: hi", '{"facts": []}'), ("User: I live in Rome", '{"facts": [{"quote": "I live in Rome"}]}'))
    answer = await BackendReasoner(pool).structured("Extract facts.", examples, "User: My name is Priya.", SCHEMA)
    assert all(set(fact) == {"quote"} for fact in orjson.loads(answer)["facts"])


async def test_a_begun_reply_is_continued_not_repeated(config: BackendConfig) -> None:
    backend = OpenAICompatibleBackend(config)
    sentence = "The quick brown fox jumps over the lazy dog."
    request = ChatRequest(
        messages=(ChatMessage("user", f"Repeat exactly: {sentence}"),),
        prefix="The quick brown fox jumps over",
        max_tokens=12,
        temperature=0,
    )
    text, _, last = await read(backend.stream(request, guarded=False))
    await backend.aclose()
    assert not text.lstrip().startswith("The quick")
    assert last.usage is not None
    assert last.usage.prompt_tokens > 20


async def test_the_doctor_finds_it_well(config: BackendConfig) -> None:
    report = await examine([config])
    assert report.works
    record = report.backends[0].capabilities
    assert (record.server, record.context_length, record.streams, record.usage) == ("llamacpp", 2048, True, True)
    assert (record.structured, record.reasoning) == ("json_schema", "none")
    assert record.prefill in {"continues", "restarts"}


async def test_a_prompt_that_is_too_long_is_an_overflow_and_leads_to_a_smaller_one(
    pool: Backends, config: BackendConfig
) -> None:
    long = ChatRequest(messages=(ChatMessage("user", "hello there " * 2500),), max_tokens=4)
    backend = OpenAICompatibleBackend(config)
    with pytest.raises(ContextOverflowError) as raised:
        await read(backend.stream(long))
    assert raised.value.limit == 2048
    await backend.aclose()

    asked: list[int] = []

    def build(target: Target) -> ChatRequest:
        asked.append(target.prompt_tokens)
        return long if len(asked) == 1 else ChatRequest(messages=(ChatMessage("user", "hello"),), max_tokens=4)

    opened = await pool.open_stream(build, route="general")
    text = "".join([delta.text async for delta in opened.deltas])
    assert text
    assert asked[1] < asked[0]


async def test_samplers_of_local_servers_are_taken(config: BackendConfig) -> None:
    backend = OpenAICompatibleBackend(config)
    wishes = {"top_k": 20, "min_p": 0.05, "repeat_penalty": 1.1, "top_p": 0.9, "seed": 7, "presence_penalty": 0.1}
    request = ChatRequest(
        messages=(ChatMessage("user", "Count: one two three"),),
        max_tokens=12,
        temperature=0.8,
        stop=("ZZZ",),
        sampling=wishes,
    )
    first, _, _ = await read(backend.stream(request))
    assert (await read(backend.stream(request)))[0] == first
    assert not backend.dialect(config.model).dropped
    await backend.aclose()


async def test_a_wrong_key_is_refused(config: BackendConfig) -> None:
    backend = OpenAICompatibleBackend(config, api_key="wrong")
    with pytest.raises(KeyRefusedError):
        await read(backend.stream(ChatRequest(messages=(ChatMessage("user", "hello"),))))
    await backend.aclose()


async def test_what_is_counted_teaches_the_estimate(pool: Backends) -> None:
    (provider,) = pool.providers
    request = ChatRequest(
        messages=(ChatMessage("user", "We went to the beach with Ana and her dog. " * 12),), max_tokens=2
    )
    opened = await pool.open_stream(fixed(request), route="general")
    async for _ in opened.deltas:
        pass
    counter = provider.counter(provider.model)
    assert getattr(counter, "correction", 1.0) != 1.0
