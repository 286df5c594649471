"""Every route, asked by everybody: made from the OpenAPI document, so that a route without a row fails.

Rows say how the owner asks. Strangers ask the same, with the owner's ids and with their own tokens, and must learn
nothing: an absent thing and somebody else's are answered alike, and no answer holds the owner's canary.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal
from uuid import uuid4

import httpx
import pytest

from service.compliance.assertions import mint_assertion
from service.compliance.config import AgeConfig
from tests.fixtures.service import LiveService
from tests.streams import read

Answer = Literal["public", "mine", "theirs", "operator", "assertion"]
CANARY = f"canary-{uuid4().hex}"
C = "/v1/conversations/{conversation_id}"
T = C + "/turns/{turn_id}"
M = C + "/messages/{message_id}"


@dataclass(frozen=True)
class Row:
    """`answer`: "theirs" is a 404 for strangers; "mine" gives each their own; "public" the same to all, signed in or not."""

    answer: Answer
    body: Callable[["Property"], Any] | None = None
    query: dict[str, str] = field(default_factory=dict)
    text: str | None = None
    signed_in: bool = True


ROWS: dict[tuple[str, str], Row] = {
    ("GET", "/health/live"): Row("public"),
    ("GET", "/health/ready"): Row("public"),
    ("GET", "/v1/safety/protocol"): Row("public"),
    ("GET", "/v1/session"): Row("mine"),
    ("POST", "/v1/session"): Row("mine", signed_in=False),
    ("DELETE", "/v1/session"): Row("mine", signed_in=False),
    ("GET", "/v1/age-assurance"): Row("mine"),
    ("POST", "/v1/age-assurance"): Row("assertion", lambda p: {"assertion": p.assertion()}),
    ("POST", "/v1/age-assurance/self-declaration"): Row("mine", lambda _: {"birth_date": "1980-01-01"}),
    ("POST", "/v1/operator/age-assurances"): Row("operator", lambda p: p.named | {"level": "mature"}),
    ("POST", "/v1/operator/age-assurances/revoke"): Row("operator", lambda p: p.named),
    ("POST", "/v1/operator/locks"): Row("operator", lambda p: p.named | {"conversation_id": p.ids["conversation_id"]}),
    ("POST", "/v1/operator/locks/release"): Row(
        "operator", lambda p: p.named | {"conversation_id": p.ids["conversation_id"]}
    ),
    ("GET", "/v1/operator/reports/duty-of-care"): Row("operator", query={"year": "2026"}),
    ("POST", "/v1/conversations/import"): Row("mine", text='{"speaker": "Ana", "text": "hello"}\n'),
    ("POST", "/v1/conversations"): Row("mine", lambda _: {}),
    ("GET", "/v1/conversations"): Row("mine"),
    ("GET", C): Row("theirs"),
    ("PATCH", C): Row("theirs", lambda _: {"title": f"{CANARY} again"}),
    ("POST", C + "/lock"): Row("theirs", lambda _: {}),
    ("DELETE", C + "/lock"): Row("theirs"),
    ("GET", C + "/messages"): Row("theirs"),
    ("POST", C + "/turns"): Row("theirs", lambda _: {"content": "hello"}),
    ("GET", T): Row("theirs"),
    ("GET", T + "/stream"): Row("theirs"),
    ("POST", T + "/stop"): Row("theirs"),
    ("POST", T + "/continue"): Row("theirs"),
    ("POST", M + "/alternatives"): Row("theirs"),
    ("POST", M + "/edits"): Row("theirs", lambda _: {"content": "instead"}),
    ("PUT", C + "/head"): Row("theirs", lambda p: {"message_id": p.ids["message_id"]}),
    ("GET", "/v1/memories"): Row("mine"),
    ("POST", "/v1/memories"): Row("mine", lambda _: {"text": "I like tea"}),
    ("POST", "/v1/memories/search"): Row(
        "theirs", lambda p: {"query": CANARY, "conversation_id": p.ids["conversation_id"]}
    ),
    ("GET", "/v1/memories/{memory_id}"): Row("theirs"),
    ("PATCH", "/v1/memories/{memory_id}"): Row("theirs", lambda _: {"pinned": True}),
    ("GET", "/v1/export"): Row("mine"),
    ("GET", "/v1/backends"): Row("operator"),
    ("GET", "/v1/models"): Row("mine"),
    ("GET", "/v1/models/{name}"): Row("mine"),
    ("POST", "/v1/chat/completions"): Row(
        "theirs",
        lambda p: {
            "model": "rapport",
            "messages": [{"role": "user", "content": "hello"}],
            "metadata": {"conversation_id": p.ids["conversation_id"]},
        },
    ),
    # what destroys comes last: the owner asks in this order too
    ("DELETE", "/v1/memories/{memory_id}"): Row("theirs"),
    ("DELETE", C): Row("theirs"),
    ("DELETE", "/v1/memories"): Row("mine", query={"confirm": "everything"}),
    ("DELETE", "/v1/account"): Row("mine", query={"confirm": "everything"}),
}


class Property:
    """Something of everything, with the canary in all that can hold it, and its owner."""

    def __init__(self, service: LiveService) -> None:
        self.service = service
        self.ids: dict[str, str] = {}
        self.name: str = f"owner-{uuid4().hex[:8]}"
        self.named: dict[str, str] = {"issuer": "rapport", "subject": self.name}
        self.client = httpx.Client(base_url=service.url, headers=service.headers(self.name), timeout=30)
        created = self.client.post(
            "/v1/conversations", json={"title": CANARY, "companion": {"name": "Mel", "persona": CANARY}}
        )
        conversation = created.json()["id"]
        path = f"/v1/conversations/{conversation}"
        with self.client.stream("POST", f"{path}/turns", json={"content": f"My secret is {CANARY}."}) as response:
            bubble = read(response)
        assert bubble.kinds[-1] == "turn.completed"
        fact = self.client.post("/v1/memories", json={"text": f"My secret is {CANARY}"})
        assert fact.status_code == 201, fact.text
        self.ids |= {
            "conversation_id": conversation,
            "turn_id": bubble.data("turn.accepted")["turn_id"],
            "message_id": bubble.data("turn.accepted")["message_id"],
            "memory_id": fact.json()["id"],
            "name": "rapport",
        }

    def assertion(self) -> str:
        return mint_assertion(AgeConfig(self.service.home, embedded=True), self.name, "mature")

    def ask(self, client: httpx.Client, key: tuple[str, str], **ids: str) -> httpx.Response:
        method, path = key
        row = ROWS[key]
        options: dict[str, Any] = {"params": row.query}
        if row.body is not None:
            options["json"] = row.body(self)
        if row.text is not None:
            options |= {"content": row.text, "headers": {"Content-Type": "application/x-ndjson"}}
        return client.request(method, path.format(**{**self.ids, **ids}), **options)

    def state(self) -> list[Any]:
        """What of it a stranger could have changed."""
        path = f"/v1/conversations/{self.ids['conversation_id']}"
        answers = [self.client.get(path), self.client.get(f"{path}/messages"), self.client.get("/v1/memories")]
        assert all(answer.status_code == 200 for answer in answers)
        return [answer.json() for answer in answers]


@pytest.fixture(scope="module")
def owned(shared_service: LiveService) -> Iterator[Property]:
    made = Property(shared_service)
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def strangers(shared_service: LiveService) -> Iterator[dict[str, httpx.Client]]:
    """Somebody else, somebody without a name, somebody whose account was erased, and somebody who is nobody."""
    url, erased = shared_service.url, f"gone-{uuid4().hex[:8]}"
    clients = {
        "other": httpx.Client(base_url=url, headers=shared_service.headers(f"other-{uuid4().hex[:8]}"), timeout=30),
        "anonymous": httpx.Client(base_url=url, headers={"Sec-Fetch-Site": "same-origin"}, timeout=30),
        "deleted": httpx.Client(base_url=url, headers=shared_service.headers(erased), timeout=30),
        "nobody": httpx.Client(base_url=url, timeout=30),
    }
    assert clients["anonymous"].post("/v1/session").status_code == 200
    clients["deleted"].post("/v1/memories", json={"text": "I was here"})
    assert clients["deleted"].delete("/v1/account", params={"confirm": "everything"}).status_code == 200
    gone = clients["deleted"].get("/v1/session")
    assert (gone.status_code, gone.json()["code"]) == (401, "token_revoked")
    # whoever erased their account can sign in again, and must find nothing
    clients["deleted"].headers.update(shared_service.later_headers(erased))
    yield clients
    for client in clients.values():
        client.close()


def test_every_route_has_a_row_and_every_row_a_route(shared_service: LiveService) -> None:
    document = httpx.get(f"{shared_service.url}/openapi.json").json()
    routes = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    assert routes == set(ROWS)


STRANGERS = ("other", "anonymous", "deleted", "nobody")


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_stranger_learns_and_changes_nothing(
    owned: Property, strangers: dict[str, httpx.Client], stranger: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before, checks = owned.state(), 0
    # erasing comes late, and signing out last
    for key in sorted(ROWS, key=_when):
        row = ROWS[key]
        answer = owned.ask(strangers[stranger], key)
        if stranger == "nobody":
            strangers[stranger].cookies.clear()  # a session it was given would make it somebody
        place = f"{stranger} {key}: {answer.status_code} {answer.text[:300]}"
        assert CANARY not in answer.text.replace(_said_by_asker(row, owned), ""), place
        assert CANARY not in str(answer.headers), place
        assert answer.status_code < 500, place
        if stranger == "nobody" and row.answer != "public" and row.signed_in:
            assert answer.status_code == 401, place
        elif row.answer == "theirs":
            assert answer.status_code == 404, place
            absent = owned.ask(strangers[stranger], key, **dict.fromkeys(owned.ids, str(uuid4())))
            if "conversation_id" not in str(row.body and row.body(owned)):
                assert _without_ids(absent) == _without_ids(answer), place
        elif row.answer == "operator":
            assert (answer.status_code, answer.json()["code"]) == (403, "operator_only"), place
        elif row.answer == "assertion":
            assert (answer.status_code, answer.json()["code"]) == (403, "age_assertion_not_yours"), place
        elif stranger == "deleted" and answer.status_code == 409:
            assert answer.json()["code"] == "account_erased", place
        else:
            assert answer.status_code < 400, place
        checks += 1
    assert owned.state() == before
    with capsys.disabled():
        print(f"\n{stranger}: {checks} routes asked, nothing learnt")


def _when(key: tuple[str, str]) -> int:
    method, path = key
    return (method == "DELETE" and ROWS[key].answer == "mine") + (method == "DELETE" and path == "/v1/session")


def _said_by_asker(row: Row, owned: Property) -> str:
    """What a stranger sent themselves may come back to them."""
    return "" if row.body is None else str(row.body(owned).get("title", ""))


def _without_ids(answer: httpx.Response) -> tuple[int, dict[str, Any]]:
    body = answer.json()
    body.pop("instance", None)
    return answer.status_code, body


def may_do(answer: httpx.Response) -> bool:
    """Done, or not because of what the thing is rather than of whose it is: a whole reply has nothing to go on with."""
    return answer.status_code < 400 or answer.json()["code"] == "nothing_to_continue"


def test_the_owner_may_do_all_of_it(shared_service: LiveService) -> None:
    """Otherwise a stranger's refusal would prove nothing."""
    owned = Property(shared_service)
    operator = httpx.Client(
        base_url=shared_service.url,
        headers={"Authorization": f"Bearer {shared_service.token('root', roles=('user', 'operator'))}"},
        timeout=30,
    )
    with contextlib.closing(owned.client), operator:
        for key, row in ROWS.items():
            if key == ("DELETE", "/v1/session"):
                continue  # it would sign the owner out; tests/service/auth/ has it
            answer = owned.ask(operator if row.answer == "operator" else owned.client, key)
            assert may_do(answer), f"{key}: {answer.status_code} {answer.text[:300]}"
