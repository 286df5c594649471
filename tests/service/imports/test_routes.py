"""POST /v1/conversations/import against the running service."""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.service import LiveService

GOOD = [
    {"rapport": 1, "title": "Two friends", "user": "Caroline", "companion": "Melanie"},
    {"speaker": "Caroline", "text": "My dog Biscuit chewed my shoes", "at": "2023-05-08T13:56:00Z"},
    {"speaker": "Melanie", "text": "Oh no! Did you buy another pair?", "at": "2023-05-08T13:57:00Z"},
]


class Client:
    def __init__(self, service: LiveService) -> None:
        self.headers = service.headers(f"importer-{uuid4()}")
        self.http = httpx.Client(base_url=service.url, timeout=30)

    def send(self, body: Any, query: str = "", **headers: str) -> httpx.Response:
        if isinstance(body, list):
            body = "\n".join(json.dumps(line) for line in body)
        headers = {"content-type": "application/x-ndjson", **headers}
        return self.http.post(f"/v1/conversations/import{query}", content=body, headers={**self.headers, **headers})

    def get(self, path: str) -> Any:
        answer = self.http.get(path, headers=self.headers)
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture
def client(shared_service: LiveService) -> Iterator[Client]:
    client = Client(shared_service)
    yield client
    client.http.close()


def test_a_file_becomes_a_conversation_and_is_recalled(client: Client) -> None:
    answer = client.send([*GOOD, {"speaker": "Caroline"}])
    assert answer.status_code == 201, answer.text
    result = answer.json()
    assert (result["imported"], result["broken"], result["already_imported"]) == (2, 1, False)
    assert result["errors"] == [{"line": 4, "reason": '"text" is missing'}]
    conversation = client.get(f"/v1/conversations/{result['conversation_id']}")
    assert (conversation["title"], conversation["companion"]["name"]) == ("Two friends", "Melanie")
    items = client.get(f"/v1/conversations/{result['conversation_id']}/messages")["items"]
    assert [(m["role"], m["speaker"]) for m in items] == [("user", "Caroline"), ("assistant", "Melanie")]
    found = client.http.post("/v1/memories/search", json={"query": "What is the dog called?"}, headers=client.headers)
    assert found.status_code == 200, found.text
    assert "Biscuit" in found.json()["items"][0]["text"]
    again = client.send(GOOD)
    assert (again.status_code, again.json()["already_imported"]) == (200, True)
    assert again.json()["conversation_id"] == result["conversation_id"]


def test_sillytavern_and_parameters(client: Client) -> None:
    answer = client.send(
        [
            {"user_name": "You", "character_name": "Seraphina", "create_date": "2023-6-8 @14h 21m 33s 123ms"},
            {"name": "Seraphina", "is_user": False, "mes": "Hello", "send_date": "June 19, 2023 2:20pm"},
        ],
        "?format=sillytavern&title=Woods&time_zone=Europe/Berlin",
    )
    assert answer.status_code == 201, answer.text
    path = f"/v1/conversations/{answer.json()['conversation_id']}"
    assert client.get(path)["title"] == "Woods"
    assert client.get(f"{path}/messages")["items"][0]["created_at"].startswith("2023-06-19T12:20:00")


def test_statements_of_another_program(client: Client) -> None:
    told = {
        "results": [{"id": "m1", "memory": "User has a dog named Biscuit", "created_at": "2026-03-01T09:00:00-07:00"}]
    }
    answer = client.send(json.dumps(told), "?format=mem0", **{"content-type": "application/json"})
    assert answer.status_code == 201, answer.text
    result = answer.json()
    assert (result["conversation_id"], result["facts"], result["imported"]) == (None, 1, 0)
    (item,) = client.get("/v1/memories?layer=fact")["items"]
    assert (item["text"], item["imported_from"], item["by_user"]) == ("User has a dog named Biscuit", "mem0", False)
    assert item["source"]["conversation_id"] is None
    assert client.send(json.dumps(told), "?format=mem0").status_code == 200


@pytest.mark.parametrize(
    ("body", "query", "headers", "status", "code"),
    [
        (b"", "", {}, 422, "import_empty"),
        (b"nonsense", "", {}, 422, "import_empty"),
        (b"[1, 2]", "", {}, 422, "import_format"),
        (b"\xff\xfe{\0", "", {}, 422, "import_format"),
        (b"{\n" * 1000, "", {}, 422, "import_format"),
        (b"{}", "?format=docx", {}, 422, "invalid_request"),
        (b"{}", "?time_zone=Mars/Olympus", {}, 422, "invalid_request"),
        (b"{}", "?title=" + "x" * 201, {}, 422, "invalid_request"),
        (b"{}", "?title=a%00b", {}, 422, "invalid_request"),
        (b"{}", "?colour=red", {}, 422, "invalid_request"),
        (b"{}", "?route=nowhere", {}, 422, "unknown_route"),
        (b"{}", "", {"content-type": "multipart/form-data; boundary=x"}, 415, "unsupported_media_type"),
        (b"{}", "", {"content-encoding": "gzip"}, 415, "unsupported_media_type"),
        (b"{}", "", {"Authorization": "Bearer x.y.z"}, 401, "token_malformed"),
    ],
)
def test_bad_input_has_a_code(
    client: Client, body: bytes, query: str, *, headers: dict[str, str], status: int, code: str
) -> None:
    answer = client.send(body, query, **headers)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"


def test_a_stream_without_a_length_is_cut_at_the_limit(live_service: LiveService) -> None:
    service = live_service
    small = service.start("serve", IMPORT_MAX_BYTES="2000")
    headers = service.headers("importer")
    line = json.dumps({"speaker": "Ann", "text": "x" * 80}).encode() + b"\n"
    with httpx.Client(base_url=small.url, timeout=30) as http:
        for content in (line * 100, iter([line] * 100)):
            answer = http.post("/v1/conversations/import", content=content, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert http.get("/v1/conversations", headers=headers).json()["items"] == []


@pytest.mark.parametrize("path", ["/v1/conversations/import", "/v1/memories/search"])
@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE"])
def test_its_name_is_no_conversation_s_or_memory_s_id_for_other_methods(client: Client, method: str, path: str) -> None:
    answer = client.http.request(method, path, headers=client.headers)
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST"), answer.text
    assert answer.json()["code"] == "method_not_allowed"
