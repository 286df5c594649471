"""A conversation goes on while its model server is changed for another real one, and back."""

from contextlib import aclosing

import pytest

from service.dev.model import EmbeddedModel
from service.llm.config import BackendConfig
from service.llm.doctor import examine
from service.llm.errors import ModelNotFoundError
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.pool import Backends, fixed
from service.llm.ports import ChatMessage, ChatRequest, Opened
from tests.service.llm.reading import read

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(600)]


async def text_of(opened: Opened) -> str:
    async with aclosing(opened.deltas) as deltas:
        return "".join([delta.text async for delta in deltas])


async def test_a_conversation_goes_on_through_two_switches(
    embedded_model: EmbeddedModel, litellm_proxy: BackendConfig
) -> None:
    direct = BackendConfig.model_validate(embedded_model.backend())
    backends = Backends([direct], learn=False)
    history: list[ChatMessage] = [ChatMessage("system", "You are Ada.")]
    answered: list[str] = []

    async def turn(message: str) -> Opened:
        history.append(ChatMessage("user", message))
        request = ChatRequest(messages=tuple(history), max_tokens=24, temperature=0)
        opened = await backends.open_stream(fixed(request), route="general")
        answered.append(opened.target.backend)
        return opened

    for message, configs in (
        ("Hello!", [litellm_proxy]),
        ("How are you?", [direct]),
        ("Tell me more.", [litellm_proxy]),
    ):
        opened = await turn(message)
        backends.reload(configs)  # in the middle of the reply
        reply = await text_of(opened)
        assert reply.strip()
        history.append(ChatMessage("assistant", reply))
    assert answered == ["embedded", "litellm", "embedded"]
    await backends.aclose()


async def test_the_proxy_is_described_and_its_refusals_understood(litellm_proxy: BackendConfig) -> None:
    report = await examine([litellm_proxy])
    assert [finding.text for finding in report.backends[0].findings if finding.grade == "fail"] == []
    assert report.backends[0].capabilities.streams
    backend = OpenAICompatibleBackend(litellm_proxy.model_copy(update={"model": "nope"}))
    with pytest.raises(ModelNotFoundError):
        await read(backend.stream(ChatRequest(messages=(ChatMessage("user", "Hello"),))))
    await backend.aclose()
