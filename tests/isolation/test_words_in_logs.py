"""What people say stands in no log, no metric and no queue, even when everything is logged."""

from collections.abc import Callable
from uuid import uuid4

import httpx
import redis

from tests.fixtures.service import LiveService
from tests.streams import read


def test_what_people_say_is_in_no_log_metric_or_queue(
    service_factory: Callable[..., LiveService], broker_url: str
) -> None:
    canary = f"canary-{uuid4().hex}"
    service = service_factory(LOG_LEVEL="debug", DRAMATIQ_BROKER_URL=broker_url)
    service.start()
    token = service.token(f"owner-{canary}")
    client = httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    with client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={'title': canary}).json()['id']}"
        with client.stream("POST", f"{path}/turns", json={"content": f"My secret is {canary}"}) as response:
            assert read(response).kinds[-1] == "turn.completed"
        client.post("/v1/memories", json={"text": f"My secret is {canary}"})
        client.post("/v1/memories/search", json={"query": canary})
        client.get("/v1/memories", params={"text": canary})
        client.post(f"{path}/turns", json={"content": canary, "nonsense": canary})
        client.post(f"{path}/turns", content=f'{{"content": "{canary}'.encode())
        client.post("/v1/session", json={"token": canary})
        client.get("/v1/session", headers={"Authorization": f"Bearer {canary}"})
        metrics = client.get("/metrics").text
    log = service.processes[0].log.read_text()
    assert log
    assert metrics
    assert canary not in metrics
    assert canary not in log
    assert token not in log
    with redis.Redis.from_url(broker_url) as broker:
        for key in broker.keys("*"):
            held = broker.dump(key)
            assert canary.encode() not in key
            assert canary.encode() not in (held or b"")
