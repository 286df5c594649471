"""POST /v1/responses as OpenAI has it: a background response is written whether or not anybody reads it."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

from tests.misbehaving.calls import Call, State
from tests.misbehaving.script import usage_of

PACES = {"slow": 0.05}
PACE = 0.002


@dataclass
class Written:
    """A response that a task of its own writes."""

    id: str
    model: str
    status: str = "in_progress"
    events: list[dict[str, Any]] = field(default_factory=list)
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def add(self, kind: str, **fields: Any) -> None:
        self.events.append({"type": kind, "sequence_number": len(self.events), **fields})
        self.grown.set()
        self.grown = asyncio.Event()

    @property
    def ended(self) -> bool:
        return self.status != "in_progress"

    def object(self, **fields: Any) -> dict[str, Any]:
        return {"id": self.id, "object": "response", "status": self.status, "model": self.model, "output": [], **fields}


class Responses:
    """All responses that the server still knows."""

    def __init__(self) -> None:
        self.known: dict[str, Written] = {}
        self.number = 0

    async def create(self, request: web.Request, state: State) -> web.StreamResponse:
        body = orjson.loads(await request.read())
        state.requests.append({"responses": body})
        model = str(body.get("model", ""))
        if model.startswith("no-background") and body.get("background"):
            return web.json_response(
                {"error": {"message": "Unsupported parameter: 'background'", "param": "background"}}, status=400
            )
        state.counts["responses"] += 1
        self.number += 1
        written = Written(f"resp_{self.number}", model)
        self.known[written.id] = written
        call = Call(request, {"messages": body["input"]}, state)
        written.task = asyncio.create_task(self.write(written, call.reply(), body))
        return await self.stream(request, written, -1, state)

    async def write(self, written: Written, text: str, body: dict[str, Any]) -> None:
        limit = body.get("max_output_tokens") or 10**9
        written.add("response.created", response=written.object())
        written.add("response.in_progress", response=written.object())
        words = text.split(" ")
        try:
            for at, word in enumerate(words[:limit]):
                await asyncio.sleep(PACES.get(written.model.partition("#")[0], PACE))
                written.add("response.output_text.delta", delta=word + " " * (at < len(words) - 1), output_index=0)
        except asyncio.CancelledError:
            written.status = "cancelled"
            written.add("response.failed", response=written.object(error={"code": "cancelled", "message": "cancelled"}))
            return
        usage = usage_of(body["input"], len(words))
        counted = {"input_tokens": usage["prompt_tokens"], "output_tokens": usage["completion_tokens"]}
        if len(words) > limit:
            written.status = "incomplete"
            details = {"reason": "max_output_tokens"}
            written.add("response.incomplete", response=written.object(usage=counted, incomplete_details=details))
        else:
            written.status = "completed"
            written.add("response.completed", response=written.object(usage=counted))

    async def read(self, request: web.Request, state: State) -> web.StreamResponse:
        written = self.known.get(request.match_info["id"])
        if written is None:
            return self.gone(request)
        if request.query.get("stream") != "true":
            return web.json_response(written.object())
        state.counts["reattached"] += 1
        return await self.stream(request, written, int(request.query.get("starting_after", -1)), state)

    async def stream(self, request: web.Request, written: Written, after: int, state: State) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        at = after + 1
        try:
            while True:
                grown = written.grown
                for event in written.events[at:]:
                    data = orjson.dumps(event)
                    await response.write(b"event: %b\ndata: %b\n\n" % (event["type"].encode(), data))
                    at += 1
                if written.ended and at == len(written.events):
                    return response
                await grown.wait()
        except (ConnectionResetError, asyncio.CancelledError):
            state.closed_early["responses"] += 1
            raise

    async def cancel(self, request: web.Request, state: State) -> web.StreamResponse:
        written = self.known.get(request.match_info["id"])
        if written is None:
            return self.gone(request)
        state.counts["cancelled"] += 1
        if written.task is not None and not written.ended:
            written.task.cancel()
            await asyncio.wait({written.task})
        return web.json_response(written.object())

    async def expire(self) -> web.StreamResponse:
        """Forget all of them, as OpenAI does after some ten minutes; who writes goes on unheard."""
        self.known.clear()
        return web.json_response({})

    def gone(self, request: web.Request) -> web.Response:
        message = f"Response with id '{request.match_info['id']}' not found."
        return web.json_response({"error": {"message": message, "type": "invalid_request_error"}}, status=404)


def add_routes(app: web.Application, state: State) -> None:
    responses = Responses()
    app.router.add_post("/v1/responses", lambda request: responses.create(request, state))
    app.router.add_get("/v1/responses/{id}", lambda request: responses.read(request, state))
    app.router.add_post("/v1/responses/{id}/cancel", lambda request: responses.cancel(request, state))
    app.router.add_post("/control/expire", lambda _request: responses.expire())
