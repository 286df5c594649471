"""A reply that its model server goes on writing when its writer dies: read on in, with nothing lost, repeated or paid twice."""

import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.fixtures.service import LiveService, Process
from tests.journeys.test_takeover import follow
from tests.misbehaving.process import Misbehaving
from tests.streams import Bubble, read

WORDS = 60
WHOLE = " ".join(f"word{number}" for number in range(1, WORDS + 1))


@pytest.fixture
def service(service_factory: Callable[..., LiveService], misbehaving: Misbehaving) -> LiveService:
    server = {"name": "openai", "url": misbehaving.url, "model": "slow", "api": "responses", "context_length": 8192}
    return service_factory(LLM_BACKENDS=json.dumps([server]), DRAIN_SECONDS="0.2")


def begun(service: LiveService, writer: Process, deltas: int) -> tuple[str, str, Bubble]:
    """A reply that `writer` is in the middle of: the conversation's path, the turn's, and what its reader has."""
    with httpx.Client(base_url=writer.url, headers=service.headers("ana"), timeout=30) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        with client.stream("POST", f"{path}/turns", json={"content": f"say: {WHOLE}"}) as response:
            bubble = read(response, deltas=deltas)
    return path, f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}", bubble


def ended(service: LiveService, process: Process, turn: str, bubble: Bubble) -> None:
    while not bubble.ended:
        follow(service, process, turn, bubble)


def stored(service: LiveService, process: Process, path: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = httpx.get(
        f"{process.url}{path}/messages", headers=service.headers("ana"), timeout=10
    ).json()["items"]
    return items


@pytest.mark.faults
@pytest.mark.parametrize("deltas", [1, 20])
def test_a_killed_writers_reply_is_read_on_in(service: LiveService, misbehaving: Misbehaving, deltas: int) -> None:
    survivor, writer = service.start(), service.start()
    path, turn, bubble = begun(service, writer, deltas)
    writer.kill()
    shown = bubble.text
    ended(service, survivor, turn, bubble)
    assert bubble.kinds[-1] == "turn.completed"
    assert bubble.text == WHOLE
    assert shown
    assert stored(service, survivor, path)[1]["content"] == WHOLE
    assert (bubble.repeated, bubble.rebased) == (0, 0)
    told = bubble.data("turn.taken_over")
    assert told["grade"] == "exact"
    assert told["kept_chars"] >= len(shown)
    counts = misbehaving.state()["counts"]
    assert (counts["responses"], counts["reattached"]) == (1, 1), "nothing is asked, or paid for, twice"
    print(
        f"\nwriter killed after {len(shown)} characters: grade {told['grade']}, 0 lost, 0 repeated, "
        f"{counts['responses']} upstream request"
    )


def test_a_reply_that_is_handed_over_is_read_on_in(service: LiveService, misbehaving: Misbehaving) -> None:
    survivor, writer = service.start(), service.start()
    _, turn, bubble = begun(service, writer, 10)
    writer.kill(15)
    ended(service, survivor, turn, bubble)
    assert bubble.text == WHOLE
    assert (bubble.repeated, bubble.rebased, bubble.data("turn.taken_over")["grade"]) == (0, 0, "exact")
    assert misbehaving.state()["counts"]["responses"] == 1


def test_a_response_that_is_gone_is_continued_and_told(service: LiveService, misbehaving: Misbehaving) -> None:
    survivor, writer = service.start(), service.start()
    _, turn, bubble = begun(service, writer, 10)
    writer.kill()
    misbehaving.expire()
    ended(service, survivor, turn, bubble)
    assert bubble.text == WHOLE
    assert (bubble.repeated, bubble.rebased) == (0, 0)
    grades = [data["grade"] for _, kind, data in bubble.events if kind == "turn.taken_over"]
    assert grades == ["exact", "prefix"], "what was promised first could not be kept, and that is said"
    assert misbehaving.state()["requests"][-1]["body"]["messages"][-1]["role"] == "assistant"


def test_a_stop_ends_it_at_the_server_too(service: LiveService, misbehaving: Misbehaving) -> None:
    writer = service.start()
    _, turn, bubble = begun(service, writer, 5)
    stopped = httpx.post(f"{writer.url}{turn}/stop", headers=service.headers("ana"), timeout=10).json()
    assert stopped["status"] == "stopped"
    deadline = time.monotonic() + 5
    while "cancelled" not in misbehaving.state()["counts"]:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert len(bubble.text) < len(WHOLE)
