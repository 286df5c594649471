"""What a user was told stays told: beside the messages, in a stream whose log is gone, and in the export."""

from uuid import uuid4

import httpx
import redis

from tests.fixtures.service import LiveService
from tests.streams import read

CRISIS = "I want to kill myself"


def test_notices_come_back_after_the_stream_is_gone(shared_service: LiveService, worker_redis_url: str) -> None:
    headers = shared_service.headers(f"told-{uuid4().hex[:8]}")
    with (
        httpx.Client(base_url=shared_service.url, headers=headers, timeout=30) as client,
        redis.Redis.from_url(worker_redis_url) as live,
    ):
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        with client.stream("POST", f"{path}/turns", json={"content": CRISIS}) as response:
            told = read(response)
        notices = [data for _, kind, data in told.events if kind == "notice"]
        assert [notice["kind"] for notice in notices] == ["crisis_referral", "ai_disclosure"]
        said, reply = client.get(f"{path}/messages").json()["items"]
        assert (said["notices"], reply["notices"]) == ([], notices)
        logs = [key for key in live.keys("*") if key.startswith(b"reply:") and path.rpartition("/")[2].encode() in key]
        assert logs
        live.delete(*logs)
        turn = told.data("turn.accepted")["turn_id"]
        with client.stream("GET", f"{path}/turns/{turn}/stream") as response:
            again = read(response)
        assert again.kinds == ["turn.accepted", "notice", "notice", "turn.rebased", "turn.completed"]
        assert [data for _, kind, data in again.events if kind == "notice"] == notices
        assert again.text == told.text == reply["content"]
        exported = client.get("/v1/export").json()
        assert {notice["text"] for notice in exported["notices"]} == {notice["text"] for notice in notices}
