"""One request to the misbehaving server, and the registry of the ways to answer it badly."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.misbehaving.script import DONE, REPLY, chunk, rest_of, usage_of


@dataclass
class State:
    """What the server remembers, for tests to ask at /control/state."""

    counts: Counter[str] = field(default_factory=Counter)
    requests: list[dict[str, Any]] = field(default_factory=list)
    closed_early: Counter[str] = field(default_factory=Counter)
    loaded: set[str] = field(default_factory=set)
    copies: Counter[str] = field(default_factory=Counter)
    running: set[asyncio.Event] = field(default_factory=set)
    most_at_once: Counter[str] = field(default_factory=Counter)
    now: Counter[str] = field(default_factory=Counter)
    override: str = ""


@dataclass
class Call:
    """A POST /v1/chat/completions."""

    request: web.Request
    body: dict[str, Any]
    state: State
    written: int = 0

    @property
    def model(self) -> str:
        return str(self.body.get("model", ""))

    @property
    def messages(self) -> list[dict[str, Any]]:
        return list(self.body.get("messages", []))

    @property
    def prefix(self) -> str:
        last = self.messages[-1] if self.messages else {}
        return str(last.get("content", "")) if last.get("role") == "assistant" else ""

    @property
    def wants_usage(self) -> bool:
        return bool((self.body.get("stream_options") or {}).get("include_usage"))

    def reply(self) -> str:
        """What is left to say: numbered words, or the text that the last user message quotes after "say:"."""
        asked = next((str(m.get("content", "")) for m in reversed(self.messages) if m.get("role") == "user"), "")
        wanted = asked.partition("say:")[2].strip() or REPLY
        if (form := self.body.get("response_format")) and form.get("type") != "text":
            wanted = orjson.dumps({"facts": [], "answer": "yes"}).decode()
        return rest_of(self.prefix, wanted)

    async def open(self, content_type: str = "text/event-stream") -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": content_type, "Cache-Control": "no-cache"})
        await response.prepare(self.request)
        return response

    async def send(self, response: web.StreamResponse, *parts: bytes, pause: float = 0.0) -> None:
        for part in parts:
            await response.write(part)
            await asyncio.sleep(pause)

    async def words(self, response: web.StreamResponse, text: str, *, pause: float = 0.002) -> None:
        """Stream `text` word by word; a reader that goes away is noted and ends the call."""
        pieces = text.split(" ")
        for at, piece in enumerate(pieces):
            await self.send(response, chunk(self.model, content=piece + " " * (at < len(pieces) - 1)), pause=pause)

    async def finish(
        self, response: web.StreamResponse, *, finish: str = "stop", usage: bool = True
    ) -> web.StreamResponse:
        await response.write(chunk(self.model, finish=finish))
        if usage and self.wants_usage:
            await response.write(chunk(self.model, choices=False, usage=usage_of(self.messages, 20)))
        await response.write(DONE)
        await response.write_eof()
        return response

    def cut(self) -> None:
        """Break the connection as a crash does."""
        if self.request.transport is not None:
            self.request.transport.abort()

    def error(self, status: int, body: Any, headers: dict[str, str] | None = None) -> web.Response:
        return web.json_response(body, status=status, headers=headers or {})


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Quirk:
    name: str
    seen_in: str
    answer: Handler


QUIRKS: dict[str, Quirk] = {}


def quirk(name: str, seen_in: str) -> Callable[[Handler], Handler]:
    """Register a way to misbehave, and where it was met."""

    def registered(handler: Handler) -> Handler:
        QUIRKS[name] = Quirk(name, seen_in, handler)
        return handler

    return registered


def refusal(name: str, seen_in: str, applies: Callable[[Call], bool], status: int, body: Any) -> None:
    """Register a quirk that refuses some requests and answers the others well."""

    async def answer(call: Call) -> web.StreamResponse:
        return call.error(status, body) if applies(call) else await behave(call)

    QUIRKS[name] = Quirk(name, seen_in, answer)


def failure(
    name: str, seen_in: str, status: int, body: Any, headers: dict[str, str] | None = None, *, once: bool = False
) -> None:
    """Register a quirk that fails every request, or with `once` only the first of each model name."""

    async def answer(call: Call) -> web.StreamResponse:
        if once and call.state.counts[call.model] > 1:
            return await behave(call)
        if isinstance(body, str):
            return web.Response(text=body, status=status, content_type="text/html", headers=headers or {})
        return call.error(status, body, headers)

    QUIRKS[name] = Quirk(name, seen_in, answer)


async def behave(call: Call, *, pause: float = 0.002) -> web.StreamResponse:
    """Answer as OpenAI does, streamed or not."""
    text = call.reply()
    if not call.body.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response(
            {"object": "chat.completion", "choices": [choice], "usage": usage_of(call.messages, 20)}
        )
    response = await call.open()
    await call.send(response, chunk(call.model, content="", role="assistant"))
    await call.words(response, text, pause=pause)
    return await call.finish(response)


def roles(call: Call) -> Iterable[str]:
    return [str(message.get("role")) for message in call.messages]
