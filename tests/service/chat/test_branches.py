"""Nothing that was said is overwritten."""

from collections.abc import Iterator
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.service import LiveService
from tests.service.chat.test_turns import conversation, messages, say
from tests.streams import Bubble, read


@pytest.fixture
def client(shared_service: LiveService) -> Iterator[httpx.Client]:
    headers = shared_service.headers(f"user-{uuid4()}")
    with httpx.Client(base_url=shared_service.url, headers=headers, timeout=30) as opened:
        yield opened


def stream(client: httpx.Client, path: str, **body: object) -> Bubble:
    with client.stream("POST", path, json=body) as response:
        if response.status_code != 200:
            response.read()
        assert response.status_code == 200, response.text
        return read(response)


def test_alternatives_are_kept_side_by_side(client: httpx.Client) -> None:
    path = conversation(client)
    first = say(client, path, "Hello")
    user, reply = (item["id"] for item in messages(client, path))
    second = stream(client, f"{path}/messages/{reply}/alternatives", backend="slow")
    third = stream(client, f"{path}/messages/{user}/alternatives")
    stored = messages(client, path)
    assert [(item["role"], item["parent_id"]) for item in stored] == [("user", None), *[("assistant", user)] * 3]
    assert [item["content"] for item in stored[1:]] == [first.text, second.text, third.text]
    assert second.text != first.text
    say(client, path, "And on")
    assert messages(client, path)[4]["parent_id"] == stored[3]["id"]


def test_an_edit_is_a_branch_beside_the_old_words(client: httpx.Client) -> None:
    path = conversation(client)
    say(client, path, "One")
    say(client, path, "Two")
    one, reply, two, _ = messages(client, path)
    edited = stream(client, f"{path}/messages/{two['id']}/edits", content="Two, but better")
    stored = messages(client, path)
    assert stored[4]["parent_id"] == two["parent_id"] == reply["id"]
    assert "Two, but better" in edited.text
    stream(client, f"{path}/messages/{one['id']}/edits", content="Zero")
    assert messages(client, path)[6]["parent_id"] is None
    assert len(messages(client, path)) == 8


def test_the_way_on_can_be_chosen(client: httpx.Client) -> None:
    path = conversation(client)
    say(client, path, "One")
    reply = messages(client, path)[1]["id"]
    say(client, path, "Two")
    assert client.put(f"{path}/head", json={"message_id": reply}).status_code == 200
    say(client, path, "Three")
    assert messages(client, path)[4]["parent_id"] == reply
    assert client.put(f"{path}/head", json={"message_id": str(uuid4())}).status_code == 404


def test_what_is_not_there_or_not_yours(client: httpx.Client, shared_service: LiveService) -> None:
    path = conversation(client)
    say(client, path, "One")
    user, reply = (item["id"] for item in messages(client, path))
    for place in (
        f"{path}/messages/{uuid4()}/alternatives",
        f"/v1/conversations/{uuid4()}/messages/{user}/alternatives",
    ):
        assert client.post(place).status_code == 404
    assert client.post(f"{path}/messages/{reply}/edits", json={"content": "x"}).json()["code"] == "not_your_message"
    stranger = shared_service.headers("stranger")
    assert client.post(f"{path}/messages/{user}/alternatives", headers=stranger).status_code == 404
    assert client.post(f"{path}/messages/{user}/edits", json={"content": "x"}, headers=stranger).status_code == 404
    assert client.put(f"{path}/head", json={"message_id": user}, headers=stranger).status_code == 404
    assert len(messages(client, path)) == 2
