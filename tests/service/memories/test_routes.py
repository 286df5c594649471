"""/v1/memories, /v1/export and /v1/account against the running service."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from tests.fixtures.service import LiveService

TALK = [
    {"speaker": "Caroline", "text": "My dog Biscuit chewed my running shoes", "at": "2023-05-08T13:56:00Z"},
    {"speaker": "Melanie", "text": "I painted that lake sunrise last year", "at": "2023-05-08T13:57:00Z"},
]


class Person:
    """Somebody with a token, and a conversation behind them."""

    def __init__(self, service: LiveService, name: str) -> None:
        self.name = f"{name}-{uuid4()}"
        self.headers = service.headers(self.name)
        self.http = httpx.Client(base_url=service.url, timeout=30)
        self.service = service

    def sign_in_anew(self) -> None:
        self.headers = self.service.later_headers(self.name)

    def call(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        answer = self.http.request(method, path, headers=self.headers, **options)
        assert answer.status_code == status, answer.text
        return answer.json()

    def refused(self, method: str, path: str, **options: Any) -> tuple[int, str]:
        headers = {**self.headers, **({"content-type": "application/json"} if "content" in options else {})}
        answer = self.http.request(method, path, headers=headers, **options)
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        return answer.status_code, answer.json()["code"]

    def bring(self, talk: list[dict[str, Any]]) -> str:
        body = "\n".join(json.dumps(line) for line in talk)
        conversation: str = self.call("POST", "/v1/conversations/import", 201, content=body)["conversation_id"]
        return conversation

    def add(self, text: str, **more: Any) -> str:
        fact_id: str = self.call("POST", "/v1/memories", 201, json={"text": text, **more})["id"]
        return fact_id


@pytest.fixture
def people(shared_service: LiveService) -> Iterator[tuple[Person, Person]]:
    pair = Person(shared_service, "caroline"), Person(shared_service, "eve")
    yield pair
    for person in pair:
        person.http.close()


@pytest.fixture
def person(people: tuple[Person, Person]) -> Person:
    return people[0]


def test_memories_are_listed_searched_and_looked_at(person: Person) -> None:
    conversation = person.bring(TALK)
    fact_id = person.add("I am allergic to peanuts", pinned=True)
    page = person.call("GET", "/v1/memories?limit=2")
    assert [item["layer"] for item in page["items"]] == ["fact", "episode"]
    rest = person.call("GET", f"/v1/memories?limit=2&cursor={page['next_cursor']}")
    assert (len(rest["items"]), rest["next_cursor"]) == (1, None)
    assert rest["items"][0]["source"]["conversation_id"] == conversation
    assert person.call("GET", "/v1/memories?layer=fact&pinned=true")["items"][0]["id"] == fact_id
    assert person.call("GET", "/v1/memories?text=biscuit")["items"][0]["speaker"] == "Caroline"
    found = person.call("POST", "/v1/memories/search", json={"query": "What did Melanie paint?", "limit": 1})
    (item,) = found["items"]
    assert "lake sunrise" in item["text"]
    assert (item["source"]["seq"], item["source"]["quote"]) == (2, TALK[1]["text"])
    detail = person.call("GET", f"/v1/memories/{item['id']}")
    assert (detail["layer"], detail["sources"][0]["content"]) == ("episode", TALK[1]["text"])
    narrowed = {"query": "dog", "limit": 5, "conversation_id": conversation}
    assert person.call("POST", "/v1/memories/search", json=narrowed)["items"]


def test_a_fact_is_corrected_pinned_and_forgotten(person: Person) -> None:
    fact_id = person.add("My dog is called Biscuit")
    assert person.call("PATCH", f"/v1/memories/{fact_id}", json={}) == person.call("GET", f"/v1/memories/{fact_id}")
    changed = person.call("PATCH", f"/v1/memories/{fact_id}", json={"text": "My dog is called Bisquit", "pinned": True})
    assert (changed["text"], changed["pinned"], changed["by_user"]) == ("My dog is called Bisquit", True, True)
    assert [(h["id"], h["status"]) for h in changed["history"]] == [(fact_id, "corrected")]
    assert person.refused("PATCH", f"/v1/memories/{fact_id}", json={"text": "x"}) == (409, "not_correctable")
    receipt = person.call("DELETE", f"/v1/memories/{changed['id']}")
    assert set(receipt["forgotten"]) == {fact_id, changed["id"]}
    assert {store["store"] for store in receipt["stores"]} == {"postgresql", "redis", "queue", "logs"}
    assert person.refused("GET", f"/v1/memories/{fact_id}") == (404, "memory_not_found")
    assert person.refused("DELETE", f"/v1/memories/{fact_id}") == (404, "memory_not_found")


def test_a_forgotten_message_is_gone_from_the_conversation_and_from_recall(person: Person) -> None:
    conversation = person.bring(TALK)
    first = person.call("GET", f"/v1/conversations/{conversation}/messages")["items"][0]
    person.call("DELETE", f"/v1/memories/{first['id']}")
    left = person.call("GET", f"/v1/conversations/{conversation}/messages")["items"]
    assert [m["content"] for m in left] == ["[forgotten]", TALK[1]["text"]]
    found = person.call("POST", "/v1/memories/search", json={"query": "Biscuit the dog and running shoes"})
    assert "Biscuit" not in json.dumps(found)


def test_what_says_it_in_other_words_is_named_and_on_request_forgotten(person: Person) -> None:
    person.bring(
        [{"speaker": "Caroline", "text": "My secret garden in Granada is my refuge", "at": "2023-05-08T13:56:00Z"}]
    )
    fact_id, twin = person.add("My secret garden is in Granada"), person.add("In Granada I have a secret garden")
    (first, second) = person.call("DELETE", f"/v1/memories/{fact_id}")["similar"]
    assert {first["layer"], second["layer"]} == {"fact", "episode"}
    assert all(0.5 < one["likeness"] <= 1 for one in (first, second))
    assert person.call("GET", f"/v1/memories/{twin}")["text"] == "In Granada I have a secret garden"
    receipt = person.call("DELETE", f"/v1/memories/{twin}?similar=forget")
    assert receipt["similar"] == []
    assert "Granada" not in json.dumps(person.call("GET", "/v1/memories"))
    assert person.refused("DELETE", f"/v1/memories/{twin}?similar=perhaps") == (422, "invalid_request")


def test_a_stranger_gets_the_same_answers_as_for_nothing(people: tuple[Person, Person]) -> None:
    person, stranger = people
    conversation = person.bring(TALK)
    fact_id = person.add("I am allergic to peanuts")
    message = person.call("GET", f"/v1/conversations/{conversation}/messages")["items"][0]["id"]
    for memory_id in (fact_id, message, str(uuid4())):
        for method, options in (("GET", {}), ("DELETE", {}), ("PATCH", {"json": {"text": "mine"}})):
            assert stranger.refused(method, f"/v1/memories/{memory_id}", **options) == (404, "memory_not_found")
    assert stranger.call("GET", "/v1/memories")["items"] == []
    assert stranger.call("POST", "/v1/memories/search", json={"query": "peanuts"})["items"] == []
    body = {"query": "peanuts", "conversation_id": conversation}
    assert stranger.refused("POST", "/v1/memories/search", json=body) == (404, "conversation_not_found")
    assert "peanuts" not in json.dumps(stranger.call("GET", "/v1/export"))


def test_everything_is_exported_and_then_erased(people: tuple[Person, Person]) -> None:
    person, other = people
    person.bring([{"speaker": "Ann", "text": f"Message {n}", "at": "2024-01-01"} for n in range(450)])
    person.add("I am allergic to peanuts")
    other.add("I am somebody else")
    export = person.call("GET", "/v1/export")
    assert (export["complete"], export["user"]["subject"]) == (True, person.name)
    assert [m["content"] for m in export["conversations"][0]["messages"]] == [f"Message {n}" for n in range(450)]
    assert export["facts"][0]["text"] == "I am allergic to peanuts"
    text = person.http.get("/v1/export?format=markdown", headers=person.headers).text
    assert "- I am allergic to peanuts" in text
    assert "> Message 449" in text
    assert text.endswith("nothing is missing.\n")
    receipt = person.call("DELETE", "/v1/memories?confirm=everything")
    assert {store["what"]: store["removed"] for store in receipt["stores"]}["messages"] == 450
    assert person.call("GET", "/v1/memories")["items"] == []
    assert person.call("GET", "/v1/conversations")["items"] == []
    assert person.call("GET", "/v1/export")["erasures"][0]["scope"] == "memories_and_conversations"
    gone = person.call("DELETE", "/v1/account?confirm=everything")
    assert gone["scope"] == "account"
    assert person.refused("GET", "/v1/export") == (401, "token_revoked")
    person.sign_in_anew()
    assert person.call("GET", "/v1/export")["user"]["subject"] == ""
    # whoever comes back begins anew, when no process can hold the destroyed key any more
    assert person.refused("POST", "/v1/memories", json={"text": "I am back"}) == (409, "account_erased")
    assert person.refused("POST", "/v1/conversations", json={}) == (409, "account_erased")
    assert [item["text"] for item in other.call("GET", "/v1/memories")["items"]] == ["I am somebody else"]


HUGE = "9" * 400


@pytest.mark.parametrize(
    ("method", "path", "options", "expected"),
    [
        ("GET", "/v1/memories?cursor=nonsense", {}, (422, "invalid_cursor")),
        ("GET", "/v1/memories?cursor=%00", {}, (422, "invalid_cursor")),
        ("GET", "/v1/memories?cursor=MDAwMS0wMS0wMVQwMDowMDowMCsxNDowMHww", {}, (422, "invalid_cursor")),
        ("GET", f"/v1/memories?limit={HUGE}", {}, (422, "invalid_request")),
        ("GET", "/v1/memories?limit=0", {}, (422, "invalid_request")),
        ("GET", "/v1/memories?layer=cake", {}, (422, "invalid_request")),
        ("GET", "/v1/memories?text=a%00b", {}, (422, "invalid_request")),
        ("GET", "/v1/memories?status=odd", {}, (422, "invalid_request")),
        ("GET", "/v1/memories/not-an-id", {}, (422, "invalid_request")),
        ("POST", "/v1/memories", {"content": b'{"text": "a\\u0000"}'}, (422, "invalid_request")),
        ("POST", "/v1/memories", {"content": b'{"text": "\\ud800"}'}, (422, "invalid_request")),
        ("POST", "/v1/memories", {"content": b"{"}, (422, "invalid_json")),
        ("POST", "/v1/memories", {"json": {"text": " "}}, (422, "invalid_request")),
        ("POST", "/v1/memories", {"json": {"text": "x" * 501}}, (422, "invalid_request")),
        ("POST", "/v1/memories", {"json": {"text": "x", "kind": "king"}}, (422, "invalid_request")),
        ("POST", "/v1/memories", {"json": {"text": "x", "route": "none"}}, (422, "unknown_route")),
        (
            "POST",
            "/v1/memories",
            {"json": {"text": "x", "due_at": "9999-12-31T23:59:59-14:00"}},
            (422, "invalid_request"),
        ),
        ("POST", "/v1/memories", {"json": {"text": "x", "due_at": 1e300}}, (422, "invalid_request")),
        ("POST", "/v1/memories/search", {"json": {"query": ""}}, (422, "invalid_request")),
        ("POST", "/v1/memories/search", {"content": b'{"query": "a\\u0000"}'}, (422, "invalid_request")),
        ("POST", "/v1/memories/search", {"json": {"query": "x" * 2001}}, (422, "invalid_request")),
        ("POST", "/v1/memories/search", {"content": f'{{"query": "x", "limit": {HUGE}}}'}, (422, "invalid_request")),
        ("POST", "/v1/memories/search", {"json": {"query": "x", "user_id": "eve"}}, (422, "invalid_request")),
        ("PATCH", f"/v1/memories/{UUID(int=7)}", {"json": {}}, (404, "memory_not_found")),
        ("DELETE", "/v1/memories", {}, (422, "invalid_request")),
        ("DELETE", "/v1/memories?confirm=yes", {}, (422, "invalid_request")),
        ("DELETE", "/v1/account", {}, (422, "invalid_request")),
        ("GET", "/v1/export?format=docx", {}, (422, "invalid_request")),
    ],
)
def test_bad_input_has_a_code(
    person: Person, method: str, path: str, options: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert person.refused(method, path, **options) == expected


def test_nobody_gets_nothing(shared_service: LiveService) -> None:
    for method, path in (("GET", "/v1/memories"), ("GET", "/v1/export"), ("DELETE", "/v1/account?confirm=everything")):
        assert httpx.request(method, shared_service.url + path).status_code == 401


def test_a_reply_that_is_being_read_ends_when_its_account_is_erased(person: Person) -> None:
    conversation = person.call("POST", "/v1/conversations", 201, json={})["id"]
    body = {"content": "Tell me something long", "backend": "slow"}
    path = f"/v1/conversations/{conversation}/turns"
    with person.http.stream("POST", path, json=body, headers=person.headers) as reply:
        events = reply.iter_lines()
        while not next(events).startswith("event: reply.delta"):
            pass
        person.call("DELETE", "/v1/account?confirm=everything")
        told = [line.removeprefix("event: ") for line in events if line.startswith("event: ")]
    assert told[-1] == "turn.failed"
