"""A lock by an operator stops what runs and can't be opened by the user."""

import json
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import httpx

from tests.fixtures.service import LiveService
from tests.streams import read

SLOW = '[{"name": "slow", "kind": "scripted", "script": {"style": "numbered", "words": 300, "word_delay": 0.02}}]'


def test_an_operators_lock_stops_the_reply_and_stays(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(LLM_BACKENDS=SLOW)
    first, second = service.start(), service.start()
    user = httpx.Client(base_url=first.url, headers=service.headers("ana"), timeout=30)
    token = service.token("root", roles=("user", "operator"))
    operator = httpx.Client(base_url=second.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    with user, operator:
        conversation = user.post("/v1/conversations", json={}).json()["id"]
        path = f"/v1/conversations/{conversation}"
        named: dict[str, Any] = {"issuer": "rapport", "subject": "ana", "conversation_id": conversation}
        with user.stream("POST", f"{path}/turns", json={"content": "Hello"}) as response:
            bubble = read(response, deltas=2)
        assert user.post("/v1/operator/locks", json=named).status_code == 403
        locked = operator.post("/v1/operator/locks", json={**named, "reason": "moderation"})
        assert locked.json()["reason"] == "moderation"
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        with user.stream("GET", f"{turn}/stream", params={"after": bubble.last or ""}) as response:
            read(response, bubble)
        assert bubble.data("turn.failed")["code"] == "route_locked"
        assert len(bubble.text.split()) < 250
        # nor is it a way to read for nothing: what was shown counts towards the day's tokens
        assert user.get(turn).json()["usage"]["completion_tokens"] == -(-len(bubble.text) // 4)
        for answer in (
            user.delete(f"{path}/lock"),
            user.post(f"{path}/lock", json={"reason": "mine"}),
            user.post(f"{path}/turns", json={"content": "Hello?"}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (403, "route_locked")
        released = operator.post("/v1/operator/locks/release", json=named)
        assert released.json()["reason"] is None
        assert released.json()["epoch"] > locked.json()["epoch"]
        with user.stream("POST", f"{path}/turns", json={"content": "Hello"}) as response:
            assert response.status_code == 200
            read(response, deltas=1)
        absent = operator.post("/v1/operator/locks", json={**named, "subject": "bob"})
        assert (absent.status_code, absent.json()["code"]) == (404, "conversation_not_found")


def test_nothing_moves_a_locked_conversation_on(shared_service: LiveService) -> None:
    """Neither lines of a file nor a history that a client sends along is stored; its owner may read and delete it."""
    who = f"ana-{uuid4()}"
    token = shared_service.token("root", roles=("user", "operator"))
    user = httpx.Client(base_url=shared_service.url, headers=shared_service.headers(who), timeout=30)
    operator = httpx.Client(base_url=shared_service.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)

    def bring(*lines: str) -> httpx.Response:
        said: list[dict[str, object]] = [{"rapport": 1, "id": "one"}]
        said += [{"speaker": "Ana", "text": line, "at": f"2026-05-07T10:0{n}:00Z"} for n, line in enumerate(lines)]
        body = "\n".join(json.dumps(line) for line in said)
        return user.post("/v1/conversations/import", content=body, headers={"content-type": "application/x-ndjson"})

    def ask(*lines: str) -> httpx.Response:
        said = [{"role": ("user", "assistant")[n % 2], "content": line} for n, line in enumerate(lines)]
        return user.post("/v1/chat/completions", json={"model": "rapport", "messages": said})

    with user, operator:
        imported = bring("First line").json()["conversation_id"]
        opened = ask("What I say at the door").json()["conversation_id"]
        paths = [f"/v1/conversations/{one}" for one in (imported, opened)]
        before = [user.get(f"{path}/messages").json()["items"] for path in paths]
        for one in (imported, opened):
            named = {"issuer": "rapport", "subject": who, "conversation_id": one, "reason": "moderation"}
            assert operator.post("/v1/operator/locks", json=named).status_code == 200
        branch = user.put(f"{paths[1]}/head", json={"message_id": before[1][0]["id"]})
        history = ["What I say at the door", str(before[1][1]["content"]), "Between", "And more", "Now?"]
        for answer in (bring("First line", "Second line"), branch):
            assert (answer.status_code, answer.json()["code"]) == (403, "route_locked")
        refused = ask(*history)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "route_locked")
        assert [user.get(f"{path}/messages").json()["items"] for path in paths] == before
        assert [user.get(path).json()["head_id"] for path in paths] == [items[-1]["id"] for items in before]
        assert [user.delete(path).status_code for path in paths] == [204, 204]
