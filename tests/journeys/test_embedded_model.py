"""The real service on a real llama.cpp server; its words are never asserted on."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from service.dev.errors import EmbeddedError
from service.dev.model import EmbeddedModel
from tests.fixtures.model import missing, small_weights
from tests.fixtures.service import LiveService
from tests.streams import read

pytestmark = [pytest.mark.model, pytest.mark.timeout(300)]


@pytest.fixture
def model(tmp_path: Path) -> Iterator[EmbeddedModel]:
    """A server of this test's own, which it may kill."""
    made = EmbeddedModel(tmp_path / "model", small_weights(), context=2048, slots=1)
    try:
        made.start()
    except EmbeddedError as error:
        missing(f"the embedded model doesn't start here: {error}")
    yield made
    made.stop()


@pytest.fixture
def client(service_factory: Callable[..., LiveService], model: EmbeddedModel) -> Iterator[httpx.Client]:
    backends = json.dumps([{**model.backend(), "continues": True}])
    service = service_factory(LLM_BACKENDS=backends, REPLY_MAX_TOKENS="120")
    service.start()
    with httpx.Client(base_url=service.url, headers=service.headers(f"user-{uuid4()}"), timeout=120) as opened:
        yield opened


def test_a_reply_streams_and_is_stored(client: httpx.Client, model: EmbeddedModel) -> None:
    path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
    with client.stream("POST", f"{path}/turns", json={"content": "Tell me about the sea."}) as response:
        bubble = read(response)
    done = bubble.data("turn.completed")
    assert (done["backend"], done["model"], done["scripted"]) == ("embedded", model.model, False)
    assert done["usage"]["prompt_tokens"] > 10
    assert client.get(f"{path}/messages").json()["items"][1]["content"] == bubble.text


def test_a_reply_survives_the_death_of_its_model_server(client: httpx.Client, model: EmbeddedModel) -> None:
    path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
    with client.stream("POST", f"{path}/turns", json={"content": "Tell me a long story about the sea."}) as response:
        bubble = read(response, deltas=4)
    assert model.process is not None
    model.process.kill()
    model.process.wait()
    shown = len(bubble.text)
    time.sleep(0.5)
    model.launch()
    turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
    with client.stream("GET", f"{turn}/stream", headers={"Last-Event-ID": bubble.last or ""}) as response:
        read(response, bubble)
    assert bubble.kinds[-1] == "turn.completed"
    assert (bubble.repeated, bubble.rebased) == (0, 0)
    assert len(bubble.text) > shown
    assert client.get(f"{path}/messages").json()["items"][1]["content"] == bubble.text


def test_a_reply_survives_the_death_of_its_writer(
    service_factory: Callable[..., LiveService], model: EmbeddedModel
) -> None:
    """A real model goes on behind the words of a reply whose writer was killed."""
    service = service_factory(LLM_BACKENDS=json.dumps([{**model.backend(), "continues": True}]), REPLY_MAX_TOKENS="120")
    survivor, writer = service.start(), service.start()
    headers = service.headers(f"user-{uuid4()}")
    with httpx.Client(base_url=writer.url, headers=headers, timeout=120) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        asked = {"content": "Tell me a long story about the sea."}
        with client.stream("POST", f"{path}/turns", json=asked) as response:
            bubble = read(response, deltas=6)
        writer.kill()
    shown = bubble.text
    with httpx.Client(base_url=survivor.url, headers=headers, timeout=120) as client:
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        with client.stream("GET", f"{turn}/stream", headers={"Last-Event-ID": bubble.last or ""}) as response:
            read(response, bubble)
        stored = client.get(f"{path}/messages").json()["items"][1]["content"]
    told = bubble.data("turn.taken_over")
    assert (bubble.kinds[-1], bubble.repeated, bubble.rebased) == ("turn.completed", 0, 0)
    assert told["grade"] == "prefix"
    assert told["kept_chars"] >= len(shown) > 0
    assert stored == bubble.text
    assert stored.startswith(shown)
    assert len(stored) > told["kept_chars"]
    print(
        f"\n{model.model}, writer killed: …{stored[: told['kept_chars']][-50:]!r} ‖ {stored[told['kept_chars'] :][:50]!r}…"
    )
