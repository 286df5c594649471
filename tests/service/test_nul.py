"""A NUL in any text that the API takes is an answer, never an error of ours: PostgreSQL takes none, in words or in JSON.

The texts are those of the API's own document: what is added to it is asked as well.
"""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

import httpx

from tests.fixtures.service import LiveService
from tests.streams import read

NUL = "a\x00b"
Steps = tuple[str | int, ...]
Schema = dict[str, Any]


class Document:
    """The API's document, and requests made by it."""

    def __init__(self, document: Schema) -> None:
        self.paths: dict[str, dict[str, Schema]] = document["paths"]
        self._schemas: dict[str, Schema] = document["components"]["schemas"]

    def whole(self, schema: Schema) -> Schema:
        return self._schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def texts(self, schema: Schema, at: Steps = ()) -> Iterator[Steps]:
        """Where in a value of this schema a free text stands."""
        schema = self.whole(schema)
        for place, option in enumerate(schema.get("anyOf", ())):
            yield from self.texts(option, (*at, place))
        for name, inner in schema.get("properties", {}).items():
            yield from self.texts(inner, (*at, name))
        if "items" in schema:
            yield from self.texts(schema["items"], (*at, 0))
        if schema.get("type") == "object" and schema.get("additionalProperties") is True and len(at) == 2:
            yield (*at, "any")
        if schema.get("type") == "string" and not schema.keys() & {"enum", "const", "format"}:
            yield at

    def made(self, schema: Schema, at: Steps | None = None) -> Any:
        """The smallest value of this schema; with a NUL in the text that stands `at` a place of it."""
        schema = self.whole(schema)
        if "anyOf" in schema:
            return self.made(schema["anyOf"][int(at[0]) if at else 0], at[1:] if at else None)
        match schema.get("type"):
            case "object":
                inner = {
                    name: self.made(part, at[1:] if at and at[0] == name else None)
                    for name, part in schema.get("properties", {}).items()
                    if name in schema.get("required", ()) or (at and at[0] == name)
                }
                return {**inner, "any": NUL} if at == ("any",) else inner
            case "array":
                return [self.made(schema["items"], at[1:] if at else None)] if at or schema.get("minItems") else []
            case "string":
                return NUL if at == () else self._text(schema)
            case "integer" | "number":
                return schema.get("minimum", 1)
        return None

    def _text(self, schema: Schema) -> str:
        kinds = {"uuid": str(uuid4()), "date-time": "2026-01-01T00:00:00Z", "date": "1990-12-31"}
        found: str = schema.get("const") or kinds.get(schema.get("format", "")) or (schema.get("enum") or ["word"])[0]
        return found


def requests(document: Document) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each text of each request, as what it is asked with."""
    for path, operations in document.paths.items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            for at in document.texts(body) if body else ():
                yield method, path, {"json": document.made(body, at)}
            for parameter in operation.get("parameters", ()):
                if parameter["in"] == "query" and any(document.texts(parameter["schema"])):
                    yield method, path, {"params": {parameter["name"]: NUL}}


def test_a_nul_in_any_text_is_no_error_of_ours(
    service_factory: Callable[..., LiveService], new_database: Callable[..., str]
) -> None:
    """Unsealed: so PostgreSQL sees each of them."""
    service = service_factory(RAPPORT_MASTER_KEY="off", DATABASE_URL=new_database(migrated=True))
    service.start()
    token = service.token(f"user-{uuid4()}", roles=("user", "operator"))
    asked: list[tuple[str, str]] = []
    wrong: list[str] = []
    headers = {"Authorization": f"Bearer {token}"}
    # an error of ours closes its connection: the next request would meet that instead of its own answer
    limits = httpx.Limits(max_keepalive_connections=0)
    with httpx.Client(base_url=service.url, headers=headers, timeout=30, limits=limits) as client:
        document = Document(client.get("/openapi.json").json())
        for method, path, options in requests(document):
            here = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
            with client.stream("POST", f"{here}/turns", json={"content": "Hello"}) as response:
                turn = read(response)
            ids = {
                "{conversation_id}": here.rpartition("/")[2],
                "{message_id}": turn.data("turn.accepted")["message_id"],
                "{turn_id}": turn.data("turn.accepted")["turn_id"],
            }
            place = path
            for name, value in ids.items():
                place = place.replace(name, value)
            answer = client.request(method, place.replace("{memory_id}", str(uuid4())), **options)
            asked.append((method, path))
            if answer.status_code >= 500:
                wrong.append(f"{method} {path} {options}: {answer.status_code}")
    assert wrong == []
    assert len(asked) > 30
    assert {
        ("post", f"/v1/conversations/{{conversation_id}}/{name}")
        for name in (
            "turns",
            "messages/{message_id}/alternatives",
            "messages/{message_id}/edits",
            "turns/{turn_id}/continue",
        )
    } <= set(asked)
    assert ("post", "/v1/chat/completions") in asked
