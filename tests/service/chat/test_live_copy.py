"""The live copy of a conversation never outlives what was changed or forgotten in it."""

import time
from collections.abc import Callable, Iterator
from uuid import UUID, uuid4

import httpx
import pytest
import redis

from sessions.keys import buffer_key, session_key
from tests.fixtures.service import LiveService
from tests.streams import Bubble, read

SECRET = "Zanzibar"
BEFORE, AFTER = "- The password is Rosebud.", "- The password is Tulip."
"""The scripted backend repeats such lines of its instructions when they bear on the question."""


@pytest.fixture
def client(service_factory: Callable[..., LiveService]) -> Iterator[httpx.Client]:
    service = service_factory(RAPPORT_MASTER_KEY="off")  # so that what Redis holds can be looked at
    service.start()
    with httpx.Client(base_url=service.url, headers=service.headers(f"user-{uuid4()}"), timeout=30) as opened:
        yield opened


@pytest.fixture
def path(client: httpx.Client) -> str:
    made = client.post("/v1/conversations", json={"companion": {"name": "Mel", "persona": BEFORE}})
    return f"/v1/conversations/{made.json()['id']}"


def say(client: httpx.Client, path: str, text: str, **body: object) -> Bubble:
    with client.stream("POST", f"{path}/turns", json={"content": text, **body}) as response:
        assert response.status_code == 200, response.read()
        return read(response)


def kept(redis_url: str, path: str) -> bytes | None:
    with redis.Redis.from_url(redis_url) as store:
        value = store.get(buffer_key(UUID(path.rpartition("/")[2])))
        assert value is None or isinstance(value, bytes)
        return value


def kept_soon(redis_url: str, path: str) -> bytes:
    """The copy that is written just after a reply has ended."""
    deadline = time.monotonic() + 20
    while (value := kept(redis_url, path)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return value


def test_a_reply_that_was_running_brings_nothing_back(client: httpx.Client, path: str, redis_url: str) -> None:
    say(client, path, f"My secret place is {SECRET}", backend="slow")
    assert SECRET.encode() in kept_soon(redis_url, path)
    (said, _) = client.get(f"{path}/messages").json()["items"]
    with client.stream("POST", f"{path}/turns", json={"content": "Count", "backend": "slow"}) as response:
        bubble = read(response, deltas=2)
        assert client.delete(f"/v1/memories/{said['id']}").status_code == 200
        changed = client.patch(path, json={"companion": {"name": "Mel", "persona": AFTER}})
        assert changed.status_code == 200
        with client.stream("GET", f"{path}/turns/{bubble.data('turn.accepted')['turn_id']}/stream") as rest:
            assert read(rest).kinds[-1] == "turn.completed"
    time.sleep(0.5)  # the copy would be written just after the end is told
    value = kept(redis_url, path) or b""
    assert SECRET.encode() not in value
    assert b"Rosebud" not in value
    told = say(client, path, "What is the password?").text
    assert "Tulip" in told
    assert "Rosebud" not in told


def test_a_copy_that_was_written_late_is_not_believed(client: httpx.Client, path: str, redis_url: str) -> None:
    say(client, path, "Hello", backend="slow")
    kept_soon(redis_url, path)
    keys = [key(UUID(path.rpartition("/")[2])) for key in (session_key, buffer_key)]
    with redis.Redis.from_url(redis_url) as store:
        old = {key: store.get(key) for key in keys}
        assert client.patch(path, json={"companion": {"name": "Mel", "persona": AFTER}}).status_code == 200
        assert kept(redis_url, path) is None
        for key, value in old.items():
            assert isinstance(value, bytes)
            store.set(key, value)
    told = say(client, path, "What is the password?").text
    assert "Tulip" in told
    assert "Rosebud" not in told


def test_a_copy_of_the_conversation_as_it_is_is_used(client: httpx.Client, path: str, redis_url: str) -> None:
    """It costs no look at the past, turn after turn."""
    say(client, path, "Hello", backend="slow")
    value = kept_soon(redis_url, path)
    with redis.Redis.from_url(redis_url) as store:
        store.set(buffer_key(UUID(path.rpartition("/")[2])), value.replace(b"Rosebud", b"Magnolia"))
    assert "Magnolia" in say(client, path, "What is the password?").text
