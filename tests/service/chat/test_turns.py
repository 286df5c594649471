"""A turn over the real service: streamed, resumed, stopped, refused."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.service import LiveService
from tests.streams import Bubble, read


@pytest.fixture
def client(shared_service: LiveService) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=shared_service.url, headers=shared_service.headers(f"user-{uuid4()}"), timeout=30
    ) as opened:
        yield opened


def conversation(client: httpx.Client, **body: object) -> str:
    answer = client.post("/v1/conversations", json=body)
    assert answer.status_code == 201, answer.text
    path: str = f"/v1/conversations/{answer.json()['id']}"
    return path


def say(client: httpx.Client, path: str, text: str, **body: object) -> Bubble:
    with client.stream("POST", f"{path}/turns", json={"content": text, **body}) as response:
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        assert response.headers["content-type"].startswith("text/event-stream")
        return read(response)


def messages(client: httpx.Client, path: str) -> list[dict[str, object]]:
    items: list[dict[str, object]] = client.get(f"{path}/messages").json()["items"]
    return items


def test_a_reply_streams_and_is_stored_as_it_was_shown(client: httpx.Client) -> None:
    path = conversation(client, companion={"name": "Mel"})
    bubble = say(client, path, "Hello 🦊 there")
    assert bubble.kinds[:2] == ["turn.accepted", "memory.recalled"]
    assert bubble.kinds[-1] == "turn.completed"
    assert [event_id for event_id, _, _ in bubble.events] == [f"1-{n}" for n in range(len(bubble.events))]
    stored = messages(client, path)
    assert [(item["role"], item["content"], item["speaker"]) for item in stored] == [
        ("user", "Hello 🦊 there", None),
        ("assistant", bubble.text, "Mel"),
    ]
    assert bubble.data("turn.completed")["scripted"] is True
    assert client.get(path).json()["title"] == "Hello 🦊 there"


def test_the_first_token_comes_before_the_last(client: httpx.Client) -> None:
    path = conversation(client)
    bubble = say(client, path, "Count", backend="slow")
    assert bubble.kinds.count("reply.delta") > 5
    assert bubble.text == messages(client, path)[1]["content"]


def test_sending_again_gives_the_same_turn(client: httpx.Client) -> None:
    path = conversation(client)
    first = say(client, path, "Once only", client_message_id="m-1")
    second = say(client, path, "Once only", client_message_id="m-1")
    assert second.text == first.text
    assert second.data("turn.accepted")["turn_id"] == first.data("turn.accepted")["turn_id"]
    assert second.data("turn.accepted")["duplicate"] is True
    assert len(messages(client, path)) == 2
    answer = client.post(f"{path}/turns", json={"content": "Something else", "client_message_id": "m-1"})
    assert (answer.status_code, answer.json()["code"]) == (409, "idempotency_conflict")


def test_a_double_tap_is_one_turn(client: httpx.Client) -> None:
    path = conversation(client)
    with ThreadPoolExecutor(6) as pool:
        bubbles = list(pool.map(lambda _: say(client, path, "Tap", client_message_id="tap", backend="slow"), range(6)))
    assert len({bubble.data("turn.accepted")["turn_id"] for bubble in bubbles}) == 1
    assert len({bubble.text for bubble in bubbles}) == 1
    assert len(messages(client, path)) == 2


def test_a_second_message_meanwhile_is_refused(client: httpx.Client) -> None:
    path = conversation(client)
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        turn_id = read(response, until="memory.recalled").data("turn.accepted")["turn_id"]
        answer = client.post(f"{path}/turns", json={"content": "And now?"})
        assert (answer.status_code, answer.json()["code"]) == (409, "turn_in_progress")
        assert answer.json()["turn_id"] == turn_id
        assert client.get(path).json()["active_turn_id"] == turn_id


def test_a_broken_stream_is_resumed_without_a_gap(client: httpx.Client) -> None:
    path = conversation(client)
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        bubble = read(response, deltas=3)
    turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
    for _ in range(4):
        with client.stream("GET", f"{turn}/stream", headers={"Last-Event-ID": bubble.last or ""}) as response:
            read(response, bubble, deltas=4)
    with client.stream("GET", f"{turn}/stream", params={"after": bubble.last or ""}) as response:
        read(response, bubble)
    assert bubble.ended
    assert (bubble.repeated, bubble.rebased) == (0, 0)
    assert bubble.text == messages(client, path)[1]["content"]


def test_several_readers_see_the_same(client: httpx.Client) -> None:
    path = conversation(client)
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        turn_id = read(response, until="memory.recalled").data("turn.accepted")["turn_id"]

    def follow(_: int) -> Bubble:
        with client.stream("GET", f"{path}/turns/{turn_id}/stream") as response:
            return read(response)

    with ThreadPoolExecutor(5) as pool:
        bubbles = list(pool.map(follow, range(5)))
    stored = messages(client, path)[1]["content"]
    assert [bubble.text for bubble in bubbles] == [stored] * 5
    assert all(bubble.kinds[0] == "turn.accepted" for bubble in bubbles)


def test_an_ended_turn_answers_from_the_store_when_its_log_is_gone(client: httpx.Client, redis_url: str) -> None:
    import redis

    path = conversation(client)
    bubble = say(client, path, "Hello")
    redis.Redis.from_url(redis_url).flushdb()
    with client.stream("GET", f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}/stream") as response:
        late = read(response)
    assert late.text == bubble.text
    assert [kind for kind in late.kinds if kind != "notice"] == ["turn.accepted", "turn.rebased", "turn.completed"]
    again = say(client, path, "And again")
    assert again.kinds[-1] == "turn.completed"


def test_stop_keeps_what_was_said(client: httpx.Client) -> None:
    path = conversation(client)
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        bubble = read(response, deltas=3)
        turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
        stopped = client.post(f"{turn}/stop")
        with client.stream("GET", f"{turn}/stream", params={"after": bubble.last or ""}) as rest:
            read(rest, bubble)
    assert (stopped.status_code, stopped.json()["status"]) == (200, "stopped")
    assert stopped.json()["last_event_id"] == bubble.last
    reply = messages(client, path)[1]
    assert (reply["content"], reply["status"]) == (bubble.text, "stopped")
    assert bubble.data("turn.completed")["finish_reason"] == "stopped"
    assert client.post(f"{turn}/stop").json()["status"] == "stopped"


def test_leaving_does_not_stop_a_reply(client: httpx.Client) -> None:
    path = conversation(client)
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        bubble = read(response, deltas=1)
    with client.stream("GET", f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}/stream") as response:
        assert read(response).data("turn.completed")["finish_reason"] == "stop"


def test_a_locked_conversation_is_closed_until_unlocked(client: httpx.Client) -> None:
    path = conversation(client)
    assert client.post(f"{path}/lock", json={"reason": "parent"}).json()["lock"]["reason"] == "parent"
    answer = client.post(f"{path}/turns", json={"content": "Hello?"})
    assert (answer.status_code, answer.json()["code"]) == (403, "route_locked")
    assert messages(client, path) == []
    client.delete(f"{path}/lock")
    assert say(client, path, "Hello!").kinds[-1] == "turn.completed"


def test_a_lock_ends_the_reply_that_is_being_written(client: httpx.Client) -> None:
    path = conversation(client)
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        bubble = read(response, deltas=2)
        client.post(f"{path}/lock", json={"reason": "moderation"})
    turn = f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}"
    with client.stream("GET", f"{turn}/stream", params={"after": bubble.last or ""}) as response:
        read(response, bubble)
    assert bubble.data("turn.failed")["code"] == "route_locked"
    assert [item["role"] for item in messages(client, path)] == ["user"]


def test_a_gated_route_needs_assurance(client: httpx.Client) -> None:
    path = conversation(client, route="mature")
    answer = client.post(f"{path}/turns", json={"content": "Hello", "age": 42, "verified": True})
    assert answer.status_code == 422
    answer = client.post(f"{path}/turns", json={"content": "Hello"})
    assert (answer.status_code, answer.json()["code"]) == (403, "age_assurance_required")
    assert messages(client, path) == []


def test_what_is_not_yours_is_not_there(client: httpx.Client, shared_service: LiveService) -> None:
    path = conversation(client)
    turn_id = say(client, path, "Mine").data("turn.accepted")["turn_id"]
    stranger = shared_service.headers("stranger")
    calls = [
        client.get(path, headers=stranger),
        client.get(f"{path}/messages", headers=stranger),
        client.get(f"{path}/turns/{turn_id}", headers=stranger),
        client.get(f"{path}/turns/{turn_id}/stream", headers=stranger),
        client.post(f"{path}/turns/{turn_id}/stop", headers=stranger),
        client.post(f"{path}/turns", json={"content": "x"}, headers=stranger),
        client.patch(path, json={"title": "x"}, headers=stranger),
        client.post(f"{path}/lock", json={}, headers=stranger),
        client.delete(path, headers=stranger),
    ]
    assert [(answer.status_code, answer.json()["code"]) for answer in calls] == [(404, "conversation_not_found")] * len(
        calls
    )
    assert len(messages(client, path)) == 2


def test_pages(client: httpx.Client) -> None:
    path = conversation(client)
    for number in range(4):
        say(client, path, f"Message {number}")
    newest = client.get(f"{path}/messages", params={"limit": 3}).json()
    assert [item["seq"] for item in newest["items"]] == [6, 7, 8]
    older = client.get(f"{path}/messages", params={"limit": 10, "before": newest["next_before"]}).json()
    assert ([item["seq"] for item in older["items"]], older["next_before"]) == ([1, 2, 3, 4, 5], None)
    assert [item["seq"] for item in client.get(f"{path}/messages", params={"after": 6}).json()["items"]] == [7, 8]
    paths = {path.rpartition("/")[2], *(conversation(client).rpartition("/")[2] for _ in range(4))}
    seen, cursor = [], None
    while True:
        page = client.get("/v1/conversations", params={"limit": 2, **({"cursor": cursor} if cursor else {})}).json()
        seen += [item["id"] for item in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert len(seen) == 5
    assert set(seen) == paths


def test_deleting_takes_everything(client: httpx.Client) -> None:
    path = conversation(client)
    say(client, path, "Soon gone")
    assert client.delete(path).status_code == 204
    assert client.get(f"{path}/messages").status_code == 404
    assert client.delete(path).status_code == 404


BAD_BODIES = [
    (b"{not json", "invalid_json"),
    (b"", "invalid_request"),
    (b"[]", "invalid_request"),
    (b"\xff\xfe", "invalid_json"),
    (json.dumps({"content": ""}).encode(), "invalid_request"),
    (json.dumps({"content": "a\x00b"}).encode(), "invalid_request"),
    (b'{"content": "\\ud800"}', "invalid_request"),
    (json.dumps({"content": 5}).encode(), "invalid_request"),
    (json.dumps({"content": "x", "client_message_id": "has space"}).encode(), "invalid_request"),
    (json.dumps({"content": "x", "unknown": 1}).encode(), "invalid_request"),
]


@pytest.mark.parametrize(("body", "code"), BAD_BODIES)
def test_bad_bodies_are_told_and_leave_nothing(client: httpx.Client, body: bytes, code: str) -> None:
    path = conversation(client)
    answer = client.post(f"{path}/turns", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in {400, 422}, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == code
    assert messages(client, path) == []


def test_a_message_that_is_too_long(client: httpx.Client) -> None:
    path = conversation(client)
    answer = client.post(f"{path}/turns", json={"content": "x" * 20_000})
    assert (answer.status_code, answer.json()["code"]) == (413, "message_too_large")
    answer = client.post(f"{path}/turns", json={"content": "x" * 10_000_000})
    assert answer.status_code == 413
    assert messages(client, path) == []


def test_an_unknown_backend_fails_the_turn_and_keeps_the_message(client: httpx.Client) -> None:
    path = conversation(client)
    bubble = say(client, path, "Hello", backend="nobody")
    assert bubble.data("turn.failed")["code"] == "model_not_found"
    assert [item["content"] for item in messages(client, path)] == ["Hello"]
    assert say(client, path, "Hello again").kinds[-1] == "turn.completed"


@pytest.mark.parametrize("after", ["0", "x-y", "1-", "99999999999-1"])
def test_an_event_id_that_is_none(client: httpx.Client, after: str) -> None:
    path = conversation(client)
    turn_id = say(client, path, "Hi").data("turn.accepted")["turn_id"]
    answer = client.get(f"{path}/turns/{turn_id}/stream", params={"after": after})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_event_id")


def test_paths_that_lead_nowhere(client: httpx.Client) -> None:
    for method, path in (("GET", "/v1/nothing"), ("PUT", "/v1/conversations"), ("GET", "/v1/conversations/not-a-uuid")):
        answer = client.request(method, path)
        assert answer.status_code in {404, 405, 422}
        assert answer.json()["code"]
        assert answer.headers["content-type"] == "application/problem+json"
    for cursor in ("x", "AAAA", "%00", "🦊"):
        assert client.get("/v1/conversations", params={"cursor": cursor}).json()["code"] == "invalid_cursor"
