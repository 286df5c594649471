from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from service.llm.config import BackendConfig, Timeouts
from service.llm.openai_compatible import OpenAICompatibleBackend
from tests.misbehaving.process import Misbehaving

QUICK = Timeouts(connect=2, first_token=0.5, between_tokens=0.3, total=20)

MakeBackend = Callable[..., OpenAICompatibleBackend]


@pytest.fixture
async def backend_for(misbehaving: Misbehaving) -> AsyncIterator[MakeBackend]:
    """Return a maker of backends that meet the quirk of the given name; all are closed at the end."""
    made: list[OpenAICompatibleBackend] = []

    def make(quirk: str = "normal", **fields: Any) -> OpenAICompatibleBackend:
        settings = {"name": "odd", "url": misbehaving.url, "model": quirk, "timeouts": Timeouts(), **fields}
        made.append(OpenAICompatibleBackend(BackendConfig(**settings)))
        return made[-1]

    yield make
    for backend in made:
        await backend.aclose()
