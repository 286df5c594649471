"""An app's own calls: about nobody, remembered nowhere, and at temperature 0 answered once."""

import asyncio
import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx
import pytest

from memory.postgres import Database, PoolConfig
from service.auth.api_keys import CHAT, IMPERSONATE, create_api_key
from tests.fixtures.service import LiveService
from tests.misbehaving.process import Misbehaving
from tests.misbehaving.script import REPLY


@pytest.fixture
def service(service_factory: Callable[..., LiveService], misbehaving: Misbehaving) -> LiveService:
    backends = [
        {"name": "normal", "url": misbehaving.url, "model": "normal", "context_length": 4096, "continues": True}
    ]
    service = service_factory(LLM_BACKENDS=json.dumps(backends))
    service.start()
    return service


def new_key(service: LiveService) -> str:
    async def made() -> str:
        database = Database(PoolConfig(service.environment["DATABASE_URL"], size=1, overflow=1))
        try:
            return (await create_api_key(database, f"app-{uuid4().hex[:8]}", scopes=(CHAT, IMPERSONATE)))[0]
        finally:
            await database.close()

    return asyncio.run(made())


def ask(client: httpx.Client, text: str = "A greeting, please", **fields: Any) -> httpx.Response:
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    body = {"model": "rapport", "messages": messages, "metadata": {"purpose": "app"}, "temperature": 0, **fields}
    headers = fields.pop("headers", {})
    body.pop("headers", None)
    return client.post("/v1/chat/completions", json=body, headers=headers)


def test_an_apps_own_question_is_asked_once_and_remembered_nowhere(
    service: LiveService, misbehaving: Misbehaving
) -> None:
    key = {"Authorization": f"Bearer {new_key(service)}"}
    root = {"Authorization": f"Bearer {service.token('root', roles=('user', 'operator'))}"}
    with httpx.Client(base_url=service.url, headers=key, timeout=30) as client:
        answers = [ask(client) for _ in range(3)]
        assert {answer.json()["choices"][0]["message"]["content"] for answer in answers} == {REPLY}
        assert misbehaving.state()["counts"]["normal"] == 1
        sent = misbehaving.state()["requests"][-1]["body"]
        assert [message["role"] for message in sent["messages"]] == ["system", "user"]
        assert sent["temperature"] == 0
        # another question, another wish, a warmer one: each is asked
        for fields in ({"text": "Another"}, {"max_tokens": 7}, {"temperature": 0.7}, {"temperature": 0.7}):
            assert ask(client, **fields).status_code == 200
        assert misbehaving.state()["counts"]["normal"] == 5
        streamed = ask(client, stream=True, stream_options={"include_usage": True})
        assert streamed.headers["content-type"].startswith("text/event-stream")
        chunks = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
        assert chunks[0]["choices"][0]["delta"]["content"] == REPLY
        assert chunks[-1]["usage"]["completion_tokens"] > 0
        assert client.get("/v1/conversations").json()["items"] == []
        seen = client.get("/v1/backends", headers=root).json()["cache"]
        assert (seen["hits"], seen["misses"]) == (3, 3)
        assert seen["hit_rate"] == 0.5
        assert 'rapport_backend_cache_total{result="hit"} 3.0' in client.get("/metrics").text


def test_what_one_instance_was_told_the_others_know(service: LiveService, misbehaving: Misbehaving) -> None:
    other = service.start()
    key = {"Authorization": f"Bearer {new_key(service)}"}
    root = {"Authorization": f"Bearer {service.token('root', roles=('user', 'operator'))}"}
    with (
        httpx.Client(base_url=service.url, headers=key, timeout=30) as here,
        httpx.Client(base_url=other.url, headers=key, timeout=30) as there,
    ):
        first, second = ask(here).json(), ask(there).json()
        assert second["choices"] == first["choices"]
        assert second["usage"] == first["usage"]
        assert misbehaving.state()["counts"]["normal"] == 1
        assert ask(there, text="Another").status_code == 200
        assert ask(here, text="Another").status_code == 200
        assert misbehaving.state()["counts"]["normal"] == 2
        seen = there.get("/v1/backends", headers=root).json()["cache"]
        assert seen == {"hits": 1, "shared_hits": 1, "misses": 1, "hit_rate": 0.5, "entries": 1}
        assert 'rapport_backend_cache_total{result="shared"} 1.0' in there.get("/metrics").text
        warm = ask(there, temperature=0.7)
        assert warm.status_code == 200
        assert misbehaving.state()["counts"]["normal"] == 3


def test_only_who_speaks_for_nobody_may_ask(service: LiveService, misbehaving: Misbehaving) -> None:
    key = {"Authorization": f"Bearer {new_key(service)}"}
    with httpx.Client(base_url=service.url, timeout=30) as client:
        for headers in (service.headers("ana"), {**key, "X-Rapport-User": "ana"}):
            refused = ask(client, headers=headers)
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "app_call_not_allowed")
        gated = ask(client, headers=key, model="rapport-mature")
        assert (gated.status_code, gated.json()["error"]["code"]) == (403, "app_call_not_allowed")
        misbehaving.override("key-refused")
        failed = ask(client, headers=key).json()["error"]
        assert failed["code"] == "backend_key_refused"
