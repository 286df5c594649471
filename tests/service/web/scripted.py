"""The HTTP contract as a test's script: answers are data, requests are kept."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from playwright.async_api import Request, Route

from service.web.routes import PAGE_HEADERS, load_assets

BASE = "http://localhost:8321"
"""Never connected to: every request of the page is answered by `ScriptedService.answer`."""

NOW = "2026-11-22T09:30:00+00:00"
C1 = "01937b3e-0000-7000-8000-000000000001"
T1 = "01937b3e-0000-7000-8000-0000000000a1"
T2 = "01937b3e-0000-7000-8000-0000000000a2"

Json = dict[str, Any]
Event = tuple[str, str, Json]


def frames(*events: Event) -> bytes:
    return b"".join(
        f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n".encode()
        for event_id, kind, data in events
    )


def accepted(turn: str = T1, seq: int = 1, *, duplicate: bool = False) -> Event:
    data = {
        "turn_id": turn,
        "conversation_id": C1,
        "message_id": f"m{seq}",
        "seq": seq,
        "created_at": NOW,
        "resumable": True,
    }
    return ("1-0", "turn.accepted", {**data, "duplicate": duplicate})


def delta(event_id: str, text: str) -> Event:
    return (event_id, "reply.delta", {"text": text})


def completed(event_id: str, seq: int = 2, *, finish_reason: str = "stop", scripted: bool = False) -> Event:
    data = {
        "message_id": f"m{seq}",
        "seq": seq,
        "finish_reason": finish_reason,
        "usage": None,
        "backend": "b",
        "model": "m",
    }
    return (event_id, "turn.completed", {**data, "scripted": scripted})


def memory(text: str, **changes: Any) -> Json:
    item = {
        "id": "f1",
        "layer": "fact",
        "kind": "user",
        "text": text,
        "score": 0.8,
        "why": ["dense", "lexical"],
        "said_at": "2023-05-07T18:30:00+00:00",
        "speaker": "Caroline",
        "status": "active",
        "source": {"conversation_id": C1, "message_id": "m1", "seq": 1},
    }
    return {**item, **changes}


def conversation(**changes: Any) -> Json:
    whole = {
        "id": C1,
        "title": "Pottery",
        "route": "general",
        "lock": None,
        "companion": {"name": "Maren", "persona": ""},
        "created_at": NOW,
        "updated_at": NOW,
        "last_seq": 0,
        "head_id": None,
        "active_turn_id": None,
    }
    return {**whole, **changes}


def message(seq: int, role: str, content: str, **changes: Any) -> Json:
    """A message that follows the one before it."""
    parent = f"m{seq - 1}" if seq > 1 else None
    whole = {"id": f"m{seq}", "seq": seq, "parent_id": parent, "role": role, "speaker": None, "content": content}
    return {**whole, "created_at": NOW, "turn_id": None, "status": "complete", **changes}


def problem(status: int, code: str, title: str, detail: str, **extra: Any) -> "Answer":
    body = {
        "type": f"urn:rapport:problem:{code}",
        "title": title,
        "status": status,
        "detail": detail,
        "code": code,
        **extra,
    }
    return Answer(status, json.dumps(body).encode(), "application/problem+json")


@dataclass(frozen=True)
class Answer:
    """One HTTP answer; `broken` ends the connection before any answer."""

    status: int = 200
    body: bytes = b""
    media: str = "application/json"
    broken: bool = False


def stream(*events: Event) -> Answer:
    """An event stream; without a terminal event at its end it is one that broke off."""
    return Answer(200, frames(*events), "text/event-stream")


def reply(body: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(body).encode())


BROKEN = Answer(broken=True)


@dataclass(frozen=True)
class Call:
    """One request that the page made."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


@dataclass
class ScriptedService:
    """Answers by method and path; a list of answers is used up one by one, its last one for ever."""

    conversations: list[Json] = field(default_factory=list)
    messages: list[Json] = field(default_factory=list)
    memories: list[Json] = field(default_factory=list)
    answers: dict[tuple[str, str], list[Answer]] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    """Requests for other hosts that got past the page's policy."""
    who: Json = field(default_factory=lambda: {"subject": "anon-1", "expires_at": NOW, "anonymous": True})

    def on(self, method: str, path: str, *answers: Answer) -> None:
        self.answers[method, path] = list(answers)

    def on_send(self, *answers: Answer) -> None:
        self.on("POST", f"/v1/conversations/{C1}/turns", *answers)

    def on_follow(self, turn: str, *answers: Answer) -> None:
        self.on("GET", f"/v1/conversations/{C1}/turns/{turn}/stream", *answers)

    def made(self, method: str, path: str) -> list[Call]:
        return [call for call in self.calls if (call.method, call.path) == (method, path)]

    def sent(self) -> list[Json]:
        return [call.body for call in self.made("POST", f"/v1/conversations/{C1}/turns")]

    async def answer(self, route: Route) -> None:
        request = route.request
        url = urlsplit(request.url)
        if f"{url.scheme}://{url.netloc}" != BASE:
            self.foreign.append(request.url)
            await route.abort()
            return
        if not url.path.startswith("/v1/"):
            await self._file(route, url.path)
            return
        call = Call(
            request.method, unquote(url.path), {k: v[0] for k, v in parse_qs(url.query).items()}, _body(request)
        )
        self.calls.append(call)
        given = self._scripted(call) or self._usual(call)
        if given.broken:
            await route.abort("connectionreset")
        else:
            await route.fulfill(status=given.status, body=given.body, headers={"content-type": given.media})

    async def _file(self, route: Route, path: str) -> None:
        headers = dict(PAGE_HEADERS)
        if path == "/blank":
            await route.fulfill(
                body="<!doctype html><title>blank</title><body></body>",
                headers={**headers, "content-type": "text/html"},
            )
            return
        name = {"/": "index.html", "/favicon.ico": "icon.svg"}.get(path, path.removeprefix("/static/"))
        asset = load_assets()[name]
        await route.fulfill(body=asset.body, headers={**headers, "content-type": asset.media_type})

    def _scripted(self, call: Call) -> Answer | None:
        queue = self.answers.get((call.method, call.path))
        if not queue:
            return None
        return queue.pop(0) if len(queue) > 1 else queue[0]

    def _usual(self, call: Call) -> Answer:
        usual: dict[tuple[str, str], Callable[[Call], Answer]] = {
            ("POST", "/v1/session"): self._session,
            ("DELETE", "/v1/session"): lambda _: Answer(204),
            ("GET", "/v1/conversations"): lambda _: reply({"items": self.conversations, "next_cursor": None}),
            ("POST", "/v1/conversations"): lambda each: reply(conversation(**each.body), 201),
            ("GET", f"/v1/conversations/{C1}/messages"): self._messages,
            ("GET", "/v1/memories"): lambda _: reply({"items": self.memories, "next_cursor": None}),
        }
        answer = usual.get((call.method, call.path))
        return answer(call) if answer else problem(404, "not_found", "There is no such thing", call.path)

    def _session(self, call: Call) -> Answer:
        token = (call.body or {}).get("token")
        if token:
            self.who = {"subject": token.removeprefix("token-of-"), "expires_at": NOW, "anonymous": False}
        return reply(self.who)

    def _messages(self, call: Call) -> Answer:
        before, after = int(call.query.get("before", 2**60)), int(call.query.get("after", -1))
        limit = int(call.query["limit"])
        found = [each for each in self.messages if after < each["seq"] < before]
        page = found[:limit] if "after" in call.query else found[-limit:]
        more = len(found) > limit and "after" not in call.query
        return reply({"items": page, "next_before": page[0]["seq"] if more else None})


def _body(request: Request) -> Any:
    data = request.post_data
    if data is None:
        return None
    try:
        return json.loads(data)
    except json.JSONDecodeError:
        return data
