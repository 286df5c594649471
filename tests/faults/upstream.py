"""A model server whose replies are numbered, so that a lost or doubled token is seen, and that breaks on request.

A user's message ends in "say TAG N": the reply is "TAG.1 TAG.2 … TAG.N", a token each `PACE`. It continues a begun reply.
Asked to extract, it makes one claim of each user's line, never twice in the same words: what is learnt from twice shows.
"""

import asyncio
import json
import random
import re
import signal
from collections import Counter
from typing import Any

import orjson
from aiohttp import web

from tests.misbehaving.script import DONE, chunk, rest_of, usage_of

PACE = 0.02
ASKED = re.compile(r"say (\S+) (\d+)\s*$")
LINE = re.compile(r"^\[(\d+)\] user: (My .+? is a secret\.)", re.MULTILINE)
FOREVER = 3600.0
CANARY = re.compile(r"canary-(user\d+)-")
FAULTS = ("hang", "cut", "429", "500", "garbage")


def tokens(tag: str, number: int) -> str:
    return " ".join(f"{tag}.{n}" for n in range(1, number + 1))


class Upstream:
    def __init__(self) -> None:
        self.armed: Counter[str] = Counter()
        self.struck: Counter[str] = Counter()
        self.prompts: Counter[str] = Counter()

    async def control(self, request: web.Request) -> web.Response:
        """Let the next reply go wrong in the named way; answers how often each way has struck."""
        if kind := (await request.json()).get("fault"):
            self.armed[kind] += 1
        return web.json_response(self.struck)

    def look(self, prompt: str) -> None:
        """Whose canaries stand in a prompt: one user's, and nobody else's."""
        self.prompts["prompts"] += 1
        self.prompts["canaries"] += len(CANARY.findall(prompt))
        self.prompts["of several users"] += len(set(CANARY.findall(prompt))) > 1

    async def seen(self, _request: web.Request) -> web.Response:
        return web.json_response(self.prompts)

    def next_fault(self) -> str:
        for kind in FAULTS:
            if self.armed[kind]:
                self.armed[kind] -= 1
                self.struck[kind] += 1
                return kind
        return ""

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        messages: list[dict[str, Any]] = body["messages"]
        self.look(orjson.dumps(messages).decode())
        said = next(str(m["content"]) for m in reversed(messages) if m["role"] == "user")
        if body.get("response_format"):
            return await self.learnt(request, body, said)
        asked = ASKED.search(said)
        if asked is None:
            return web.json_response({"error": {"message": "nothing to say"}}, status=400)
        fault = self.next_fault() if body["model"] == "large" else ""
        if fault == "429":
            return web.json_response({"error": {"message": "slow down"}}, status=429, headers={"Retry-After": "1"})
        if fault == "500":
            return web.json_response({"error": {"message": "internal"}}, status=500)
        prefix = str(messages[-1]["content"]) if messages[-1]["role"] == "assistant" else ""
        return await self.stream(request, body, rest_of(prefix, tokens(asked[1], int(asked[2]))), fault)

    async def stream(self, request: web.Request, body: dict[str, Any], text: str, fault: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        pieces = re.findall(r"\S+\s*|\s+", text)
        breaks = random.randrange(len(pieces) + 1) if fault else -1
        for at, piece in enumerate(pieces):
            event = chunk(body["model"], content=piece)
            if at == breaks:
                return await self.broken(request, response, event, fault)
            await response.write(event)
            await asyncio.sleep(PACE)
        if breaks == len(pieces):
            return await self.broken(request, response, b"", fault)
        await response.write(chunk(body["model"], finish="stop"))
        await response.write(chunk(body["model"], choices=False, usage=usage_of(body["messages"], len(pieces))) + DONE)
        return response

    async def broken(
        self, request: web.Request, response: web.StreamResponse, event: bytes, fault: str
    ) -> web.StreamResponse:
        if fault == "hang":
            await asyncio.sleep(FOREVER)
        elif fault == "garbage":
            await response.write(b'data: {"choices": [{"delta": {"content": NaN]}\n\n')
        else:
            await response.write(event[: len(event) // 2])
            await asyncio.sleep(0.02)
            if request.transport is not None:
                request.transport.abort()
        return response

    async def learnt(self, request: web.Request, body: dict[str, Any], said: str) -> web.StreamResponse:
        claims = []
        for number, quote in LINE.findall(said):
            take = "".join(random.choices("bcdfghjklmnpqrstvwxz", k=10))
            text = quote.replace("My", "The user's").removesuffix(".") + f" {take}."
            claims.append({"line": int(number), "quote": quote, "kind": "user", "text": text})
        answer = json.dumps({"facts": claims} if not said.startswith("A: ") else {"verdict": "both"})
        await asyncio.sleep(random.uniform(0.02, 0.4))
        if not body.get("stream"):
            message = {"role": "assistant", "content": answer}
            return web.json_response({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(chunk(body["model"], content=answer) + chunk(body["model"], finish="stop") + DONE)
        return response


async def models(_request: web.Request) -> web.Response:
    return web.json_response(
        {"object": "list", "data": [{"id": name, "object": "model"} for name in ("large", "small")]}
    )


def application() -> web.Application:
    server = Upstream()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/chat/completions", server.chat)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/control", server.control)
    app.router.add_get("/prompts", server.seen)
    return app


def serve(port: int) -> int:
    async def run() -> None:
        runner = web.AppRunner(application(), handler_cancellation=True, shutdown_timeout=0.2, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ended = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ended.set)
        await ended.wait()
        await runner.cleanup()

    asyncio.run(run())
    return 0
