"""Tokens gather in the kernel where they come faster than they are shown, and nowhere else."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import aiohttp
import pytest

from service.llm import openai_compatible
from service.llm.openai_compatible import OpenAICompatibleBackend
from service.llm.transport import held
from tests.misbehaving.script import REPLY
from tests.service.llm.conftest import MakeBackend
from tests.service.llm.reading import HELLO


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """One entry for each time that a connection is left to itself."""
    seen: list[float] = []

    @contextmanager
    def noted(response: aiohttp.ClientResponse) -> Iterator[None]:
        seen.append(time.monotonic())
        with held(response):
            yield

    monkeypatch.setattr(openai_compatible, "held", noted)
    return seen


async def reads(backend: OpenAICompatibleBackend, pause: float) -> int:
    """How many it takes to hear a reply of twenty words, one each 50 ms."""
    deltas = [delta.text async for delta in backend.stream(replace(HELLO, gather=lambda: pause)) if delta.text]
    assert "".join(deltas) == REPLY
    return len(deltas)


async def test_what_comes_faster_than_it_is_shown_is_let_gather(backend_for: MakeBackend, rests: list[float]) -> None:
    told = await reads(backend_for("slow"), pause=0.3)
    assert told <= 10
    assert len(rests) >= told / 2


async def test_what_comes_slowly_is_shown_as_it_comes(backend_for: MakeBackend, rests: list[float]) -> None:
    for _ in range(5):  # a machine that is held up brings several words at once, and then they do come fast
        rests.clear()
        told = await reads(backend_for("slow"), pause=0.005)
        if len(rests) <= told / 2:
            return
    pytest.fail(f"{told} reads, and a rest after {len(rests)} of them")
