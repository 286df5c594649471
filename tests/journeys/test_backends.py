"""Model servers that fail, are full, and are changed, seen through the real service."""

import json
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.service import LiveService
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.streams import Bubble, read

Factory = Callable[..., LiveService]
SCRIPTED = {"name": "scripted", "kind": "scripted"}


@pytest.fixture
def serving(service_factory: Factory) -> Callable[..., LiveService]:
    """Return a maker of a service with the given backends, inline or in a file."""

    def make(*backends: dict[str, Any], file: Path | None = None) -> LiveService:
        if file is not None:
            file.write_text(json.dumps(backends))
        service = service_factory(LLM_BACKENDS=str(file) if file else json.dumps(backends))
        service.start()
        return service

    return make


def person(service: LiveService) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers=service.headers(f"user-{uuid4()}"), timeout=30)


def say(client: httpx.Client, text: str = "Hello", path: str = "", **body: object) -> Bubble:
    path = path or f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
    with client.stream("POST", f"{path}/turns", json={"content": text, **body}) as response:
        assert response.status_code == 200, response.read()
        return read(response)


def odd(misbehaving: Misbehaving, quirk: str, **fields: Any) -> dict[str, Any]:
    return {"name": quirk, "url": misbehaving.url, "model": quirk, "context_length": 8192, **fields}


def test_another_backend_answers_when_the_first_is_down(
    serving: Callable[..., LiveService], misbehaving: Misbehaving
) -> None:
    with person(serving(odd(misbehaving, "500"), odd(misbehaving, "normal"))) as client:
        bubble = say(client)
        assert bubble.text == REPLY
        assert bubble.data("turn.completed")["backend"] == "normal"


def test_when_all_are_down_the_message_is_kept_and_the_user_told(
    serving: Callable[..., LiveService], misbehaving: Misbehaving
) -> None:
    with person(serving(odd(misbehaving, "429-seconds", timeouts={"first_token": 2}))) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        misbehaving.override("429-seconds")
        failed = say(client, path=path).data("turn.failed")
        assert (failed["code"], failed["retryable"]) == ("backend_busy", True)
        assert failed["retry_after"] >= 1
        stored = client.get(f"{path}/messages").json()["items"]
        assert [item["content"] for item in stored] == ["Hello"]


def test_a_reply_that_breaks_off_is_continued_where_it_stopped(
    serving: Callable[..., LiveService], misbehaving: Misbehaving
) -> None:
    with person(serving(odd(misbehaving, "breaks-off-once", continues=True))) as client:
        bubble = say(client)
        assert bubble.text == REPLY
        assert (bubble.repeated, bubble.rebased) == (0, 0)
        assert misbehaving.state()["requests"][-1]["body"]["messages"][-1]["role"] == "assistant"


def test_a_reply_that_can_not_be_continued_begins_again_and_says_so(
    serving: Callable[..., LiveService], misbehaving: Misbehaving
) -> None:
    with person(serving(odd(misbehaving, "breaks-off-once", continues=False))) as client:
        bubble = say(client)
        assert bubble.text == REPLY
        assert bubble.rebased == 1


def test_who_waits_is_told_the_place_in_the_queue(serving: Callable[..., LiveService]) -> None:
    script = {"style": "numbered", "words": 20, "word_delay": 0.03}
    service = serving({"name": "one", "kind": "scripted", "max_concurrency": 1, "script": script})
    clients = [person(service) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        bubbles = list(pool.map(say, clients))
    for client in clients:
        client.close()
    assert all(bubble.kinds[-1] == "turn.completed" for bubble in bubbles)
    told = [
        [data["text"] for _, kind, data in bubble.events if kind == "notice" and data["kind"] == "queue"]
        for bubble in bubbles
    ]
    first = sorted(texts[0] for texts in told if texts)
    assert first == [
        "The model is busy. You are next.",
        "The model is busy. Your place in the queue: 2.",
        "The model is busy. Your place in the queue: 3.",
    ]


def test_a_conversation_goes_on_when_its_backend_is_changed(
    serving: Callable[..., LiveService], misbehaving: Misbehaving, tmp_path: Path
) -> None:
    file = tmp_path / "backends.json"
    with person(serving(odd(misbehaving, "slow", continues=False), file=file)) as client, ThreadPoolExecutor(1) as pool:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        running = pool.submit(say, client, "Hello", path)
        while not misbehaving.state()["counts"]:
            time.sleep(0.02)
        file.write_text(json.dumps([SCRIPTED]))
        assert running.result().text == REPLY
        deadline = time.monotonic() + 20
        while (bubble := say(client, "And now?", path)).data("turn.completed")["backend"] != "scripted":
            assert time.monotonic() < deadline
        assert bubble.data("turn.completed")["scripted"] is True
        file.write_text("[{")
        time.sleep(2.5)
        assert say(client, "Still there?", path).data("turn.completed")["backend"] == "scripted"
        file.write_text(json.dumps([odd(misbehaving, "fast")]))
        while say(client, "And back?", path).data("turn.completed")["backend"] != "fast":
            assert time.monotonic() < deadline + 20


def test_a_hangup_is_heeded_at_once_and_a_reply_that_is_being_read_goes_on(
    serving: Callable[..., LiveService], misbehaving: Misbehaving, tmp_path: Path
) -> None:
    file = tmp_path / "backends.json"
    service = serving(odd(misbehaving, "slow", continues=False), file=file)
    with person(service) as client, ThreadPoolExecutor(1) as pool:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        for round_ in range(3):  # looking at the file every two seconds would not explain three times
            running = pool.submit(say, client, "Hello", path)
            while misbehaving.state()["counts"].get("slow", 0) == round_:
                time.sleep(0.02)
            file.write_text(json.dumps([SCRIPTED]))
            began = time.monotonic()
            service.processes[0].kill(signal.SIGHUP)
            log = service.processes[0].log
            while log.read_text().count("backends_reloaded") < 2 * round_ + 1:
                assert time.monotonic() - began < 1.9
                time.sleep(0.02)
            assert running.result().text == REPLY
            file.write_text(json.dumps([odd(misbehaving, "slow", continues=False)]))
            service.processes[0].kill(signal.SIGHUP)
            while log.read_text().count("backends_reloaded") < 2 * round_ + 2:
                time.sleep(0.02)


def test_a_nul_from_a_model_costs_nobody_a_lease(
    service_factory: Factory, misbehaving: Misbehaving, new_database: Callable[..., str]
) -> None:
    """Without sealing PostgreSQL sees each character, and takes no NUL: not in a checkpoint, a reply, or its reasoning."""
    backends = [odd(misbehaving, "normal"), odd(misbehaving, "nul-characters")]
    service = service_factory(
        LLM_BACKENDS=json.dumps(backends), RAPPORT_MASTER_KEY="off", DATABASE_URL=new_database(migrated=True)
    )
    service.start()
    with person(service) as client, person(service) as other, ThreadPoolExecutor(1) as pool:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        running = pool.submit(say, client, path=path, backend="nul-characters", reasoning="keep")
        assert say(other).text == REPLY
        bubble = running.result()
        assert (bubble.kinds[-1], bubble.text, bubble.reasoning) == ("turn.completed", REPLY, "Let me think.")
        stored = client.get(f"{path}/messages").json()["items"]
        assert [(item["content"], item["reasoning"]) for item in stored] == [("Hello", None), (REPLY, "Let me think.")]
        assert say(client, "And now?", path).text == REPLY
        assert "rapport_turn_loop_failures_total{" not in client.get("/metrics").text
