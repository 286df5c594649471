"""A lock by an operator stops what runs and can't be opened by the user."""

from collections.abc import Callable
from typing import Any

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
