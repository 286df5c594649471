"""REDIS_ENABLED=false: one process serves, learns by itself, and suffers no second one."""

import time
from collections.abc import Callable

import httpx

from tests.fixtures.service import LiveService
from tests.streams import read


def test_one_process_without_redis(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(REDIS_ENABLED="false", REDIS_URL="redis://127.0.0.1:1/0")
    process = service.start()
    with httpx.Client(base_url=process.url, headers=service.headers("ana"), timeout=30) as client:
        health = client.get("/health/ready").json()
        assert (health["status"], health["dependencies"]["redis"]["state"]) == ("ready", "off")
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        with client.stream(
            "POST", f"{path}/turns", json={"content": "My name is Priya.", "backend": "slow"}
        ) as response:
            bubble = read(response, deltas=3)
        assert bubble.data("turn.accepted")["resumable"] is False
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        with client.stream("GET", f"{turn}/stream", headers={"Last-Event-ID": bubble.last or ""}) as response:
            read(response, bubble)
        assert bubble.text == client.get(f"{path}/messages").json()["items"][1]["content"]
        assert (bubble.repeated, bubble.rebased) == (0, 0)

        deadline = time.monotonic() + 30
        facts: list[str] = []
        while not facts and time.monotonic() < deadline:
            facts = [item["text"] for item in client.get("/v1/memories", params={"layer": "fact"}).json()["items"]]
            time.sleep(0.3)
        assert any("Priya" in text for text in facts)


def test_a_second_process_is_refused(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(REDIS_ENABLED="false")
    service.start()
    second = service.start("serve", wait=False)
    assert second.process is not None
    assert second.process.wait(60) != 0
    assert "another instance uses this database" in second.log.read_text()
