"""LiteLLM's proxy, which is somebody else's server: what the doctor says of it, and what it refuses."""

import pytest

from service.llm.config import BackendConfig
from service.llm.doctor import examine
from service.llm.errors import ModelNotFoundError
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.ports import ChatMessage, ChatRequest
from tests.service.llm.reading import read

pytestmark = [pytest.mark.slow, pytest.mark.model, pytest.mark.timeout(600)]


async def test_the_proxy_is_described_and_its_refusals_understood(litellm_proxy: BackendConfig) -> None:
    report = await examine([litellm_proxy])
    assert [finding.text for finding in report.backends[0].findings if finding.grade == "fail"] == []
    assert report.backends[0].capabilities.streams
    backend = OpenAICompatibleBackend(litellm_proxy.model_copy(update={"model": "nope"}))
    with pytest.raises(ModelNotFoundError):
        await read(backend.stream(ChatRequest(messages=(ChatMessage("user", "Hello"),))))
    await backend.aclose()
