"""What users and operators read when a model server can't answer, and what reaches it when it can."""

import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from service.llm.spend import GATHER_SECONDS, LOOK_SECONDS
from tests.fixtures.service import LiveService, _settings
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY
from tests.streams import Bubble, read

KEY = "sk-a-key-that-nobody-may-read-7Q2x"


@pytest.fixture(scope="module")
def service(
    tmp_path_factory: pytest.TempPathFactory,
    worker_database_url: str,
    worker_redis_url: str,
    misbehaving_process: Misbehaving,
) -> Iterator[LiveService]:
    misbehaving_process.reset()
    prices = {"completion": 1_000_000, "daily_budget": 1.0}
    odd: list[dict[str, Any]] = [
        {"name": name, "url": misbehaving_process.url, "model": name, "context_length": 8192, "continues": False}
        for name in ("normal", "muses-first", "key-refused", "no-credit", "model-not-found")
    ]
    odd[2]["api_keys"] = [KEY]
    odd += [
        {**odd[0], "name": "dear", "prices": prices},
        {**odd[0], "name": "gone", "url": "http://127.0.0.1:9/v1"},
    ]
    home = tmp_path_factory.mktemp("told-plainly")
    settings = _settings(home, worker_database_url, worker_redis_url)
    made = LiveService(home, {**settings, "LLM_BACKENDS": json.dumps(odd)})
    made.start()
    yield made
    made.close()


@pytest.fixture
def client(service: LiveService) -> Iterator[httpx.Client]:
    headers = service.headers(f"user-{uuid4()}")
    with httpx.Client(base_url=service.url, headers=headers, timeout=60) as opened:
        yield opened


def new(client: httpx.Client) -> str:
    return f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"


def say(client: httpx.Client, path: str, **body: Any) -> Bubble:
    with client.stream("POST", f"{path}/turns", json={"content": "Hello", **body}) as response:
        assert response.status_code == 200, response.read()
        return read(response)


@pytest.mark.parametrize(
    ("backend", "code", "retryable", "told"),
    [
        ("key-refused", "backend_key_refused", False, "renew the key"),
        ("no-credit", "backend_no_credit", False, "no credit left"),
        ("model-not-found", "backend_model_missing", False, "doesn't have the model"),
        ("gone", "backend_unavailable", True, "try again"),
        ("unheard-of", "model_not_found", False, "name another"),
    ],
)
def test_a_failure_is_told_with_what_to_do(
    client: httpx.Client, backend: str, code: str, retryable: bool, told: str
) -> None:
    path = new(client)
    for _ in range(2):  # the second message meets a server or key that rests already
        failed = say(client, path, backend=backend).data("turn.failed")
        if backend != "gone":
            assert failed["code"] == code
        assert failed["retryable"] is retryable
        assert told in failed["detail"]
        assert KEY not in json.dumps(failed)
        assert "127.0.0.1" not in json.dumps(failed)
    assert [item["content"] for item in client.get(f"{path}/messages").json()["items"]] == ["Hello", "Hello"]


def test_a_spent_budget_is_told_with_the_time_of_the_next(client: httpx.Client) -> None:
    path = new(client)
    assert say(client, path, backend="dear").text == REPLY
    failed = say(client, path, backend="dear").data("turn.failed")
    assert failed["code"] == "budget_spent"
    assert "midnight" in failed["detail"]
    assert 0 < failed["retry_after"] <= 86_400


def test_what_one_instance_spends_counts_on_the_others(client: httpx.Client, service: LiveService) -> None:
    path = new(client)
    say(client, path, backend="dear")  # whether it answers or is spent already
    other = service.start()
    headers = {"Authorization": f"Bearer {service.token('root', roles=('user', 'operator'))}"}
    deadline = time.monotonic() + LOOK_SECONDS + 3 * GATHER_SECONDS + 5
    while True:
        seen = httpx.get(f"{other.url}/v1/backends", headers=headers).json()["backends"]
        budget = next(backend["budget"] for backend in seen if backend["name"] == "dear")
        if budget["spent_up"] or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    assert budget["spent_up"]
    assert budget["spent_today"] >= 20
    with client.stream("POST", f"{other.url}{path}/turns", json={"content": "Hello", "backend": "dear"}) as response:
        assert read(response).data("turn.failed")["code"] == "budget_spent"


def test_thinking_that_nobody_announced_is_taken_back(client: httpx.Client) -> None:
    path = new(client)
    bubble = say(client, path, backend="muses-first")
    assert bubble.text == REPLY
    assert bubble.data("turn.rebased")["reason"] == "thinking"
    assert client.get(f"{path}/messages").json()["items"][1]["content"] == REPLY
    assert say(client, path, backend="muses-first").rebased == 0


def test_wishes_reach_the_server_and_unknown_ones_do_not(client: httpx.Client, misbehaving: Misbehaving) -> None:
    path = new(client)
    wishes = {"temperature": 0.3, "top_p": 0.9, "seed": 5, "stop": ["END"], "max_tokens": 33, "top_k": 20}
    say(client, path, backend="normal", **wishes)
    sent = misbehaving.state()["requests"][-1]["body"]
    assert {name: sent[name] for name in wishes} == wishes
    refused_ones: list[dict[str, Any]] = [
        {"temperature": 3},
        {"max_tokens": 0},
        {"stop": ["a"] * 5},
        {"logit_bias": {}},
    ]
    for wrong in refused_ones:
        answer = client.post(f"{path}/turns", json={"content": "Hello", **wrong})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")
    body = {"model": "rapport/normal", "messages": [{"role": "user", "content": "Hello"}]}
    more = {"max_completion_tokens": 21, "temperature": 0, "stop": "END", "logit_bias": {"5": 1}, "made_up": 1}
    assert client.post("/v1/chat/completions", json={**body, **more}).status_code == 200
    sent = misbehaving.state()["requests"][-1]["body"]
    assert (sent["max_tokens"], sent["temperature"], sent["stop"]) == (21, 0, ["END"])
    assert not {"logit_bias", "made_up", "max_completion_tokens"} & sent.keys()
    refused = client.post("/v1/chat/completions", json={**body, "stop": ["a"] * 5})
    assert (refused.status_code, refused.json()["error"]["param"]) == (422, "stop")


def test_operators_see_what_the_backends_do(client: httpx.Client, service: LiveService) -> None:
    say(client, new(client), backend="key-refused")
    headers = {"Authorization": f"Bearer {service.token('root', roles=('user', 'operator'))}"}
    answer = client.get("/v1/backends", headers=headers)
    assert KEY not in answer.text
    seen = {backend["name"]: backend for backend in answer.json()["backends"]}
    assert next(iter(seen)) == "normal"
    assert seen["key-refused"]["state"] == "keys_refused"
    (key,) = seen["key-refused"]["keys"]
    assert (key["ends_with"], key["state"]) == (KEY[-4:], "refused")
    assert 0 < key["retry_in"] <= 300
    assert seen["normal"]["permits"] == {"limit": 16, "in_use": 0, "waiting": 0}
    assert seen["normal"]["routes"] == ["general", "mature"]
    assert seen["normal"]["capabilities"]["server"] == "lmstudio"
    assert seen["dear"]["budget"]["daily"] == 1.0
    assert answer.json()["embeddings"]["name"] == "all-minilm-l6-v2-int8"
    assert client.get("/v1/backends").json()["code"] == "operator_only"
