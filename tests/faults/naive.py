"""The path that most chat services begin with, in the same harness, for comparison.

Redis keeps the transcript, `SET NX` makes sends idempotent, the reply streams straight from the model to the client, and
the queue's message is the work. The client's retries, Redis' append-only file and Dramatiq's acknowledgements are all
that holds it together; docs/reliability.md has both paths in one table.
"""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import aiohttp
import asyncpg
import dramatiq
import redis.asyncio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.settings import Settings
from service.worker.broker import BrokerConfig, open_broker
from tests.faults.clients import Observer
from tests.faults.verdict import Verdict, of_book, of_learning, of_transcript
from tests.faults.world import World

DAY = 86_400
TABLE = "CREATE TABLE IF NOT EXISTS naive_memories (conversation_id text, seq bigint, content text)"
KEEP = "INSERT INTO naive_memories VALUES ($1, $2, $3)"


def frame(event_id: str, kind: str, data: dict[str, Any]) -> bytes:
    return f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode()


class NaiveService:
    def __init__(self, settings: Settings) -> None:
        self.store = redis.asyncio.Redis.from_url(settings.redis_url.get_secret_value(), socket_timeout=2)
        self.learn = declare(settings)
        self.model = settings.backends[0]

    async def converse(self, _request: Request) -> Response:
        return JSONResponse({"id": str(uuid4())}, 201)

    async def say(self, request: Request) -> Response:
        conversation, body = request.path_params["conversation"], await request.json()
        turn = body["client_message_id"]
        fresh = await self.store.set(f"idem:{turn}", 1, nx=True, ex=DAY)
        if fresh:
            said = {"id": turn, "turn": turn, "role": "user", "content": body["content"]}
            seq = await self.store.rpush(f"buffer:{conversation}", json.dumps(said))
            await self.store.expire(f"buffer:{conversation}", DAY)
            await asyncio.to_thread(self.learn.send, conversation, seq, body["content"])
        else:
            seq = 1 + next((at for at, line in enumerate(await self.lines(conversation)) if line["id"] == turn), 0)
        accepted = frame("1-0", "turn.accepted", {"turn_id": turn, "message_id": turn, "seq": seq})
        if not fresh:
            return StreamingResponse(iter([accepted]), media_type="text/event-stream")
        return StreamingResponse(
            self.reply(accepted, conversation, turn, body["content"]), media_type="text/event-stream"
        )

    async def reply(self, accepted: bytes, conversation: str, turn: str, content: str) -> AsyncIterator[bytes]:
        yield accepted
        asked = {"model": self.model.model, "stream": True, "messages": [{"role": "user", "content": content}]}
        text, n = "", 0
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.model.url}/chat/completions", json=asked) as answer,
        ):
            async for line in answer.content:
                if not line.startswith(b"data: {"):
                    continue
                choices = json.loads(line[6:])["choices"]
                part = choices[0]["delta"].get("content", "") if choices else ""
                if part:
                    text, n = text + part, n + 1
                    yield frame(f"1-{n}", "reply.delta", {"text": part})
        said = {"id": f"{turn} reply", "turn": turn, "role": "assistant", "content": text}
        await self.store.rpush(f"buffer:{conversation}", json.dumps(said))
        yield frame(f"1-{n + 1}", "turn.completed", {"message_id": said["id"]})

    async def read_on(self, request: Request) -> Response:
        """There is no log: what was not stored is gone."""
        conversation, turn = request.path_params["conversation"], request.path_params["turn"]
        text = next((line["content"] for line in await self.lines(conversation) if line["id"] == f"{turn} reply"), None)
        if text is None:
            return JSONResponse({"code": "gone"}, 404)
        whole = frame("2-0", "turn.rebased", {"text": text}) + frame(
            "2-1", "turn.completed", {"message_id": f"{turn} reply"}
        )
        return StreamingResponse(iter([whole]), media_type="text/event-stream")

    async def lines(self, conversation: str) -> list[dict[str, Any]]:
        raw: Any = await self.store.lrange(f"buffer:{conversation}", 0, -1)
        return [json.loads(line) for line in raw]


def declare(settings: Settings) -> Any:
    dsn = settings.database_url.get_secret_value()

    async def keep(conversation: str, seq: int, content: str) -> None:
        connection = await asyncpg.connect(dsn, timeout=3)
        try:
            await asyncio.sleep(0.1)  # the model reads it
            await connection.execute(KEEP, conversation, seq, content)
        finally:
            await connection.close()

    def learn(conversation: str, seq: int, content: str) -> None:
        asyncio.run(keep(conversation, seq, content))

    retries = dramatiq.middleware.Retries(max_retries=100, min_backoff=200, max_backoff=1000)
    broker = open_broker(BrokerConfig(settings.broker_url), [retries])
    dramatiq.set_broker(broker)
    return dramatiq.actor(broker=broker, queue_name="naive")(learn)


def serve(settings: Settings) -> int:
    async def failed(_request: Request, error: Exception) -> Response:
        return JSONResponse({"code": type(error).__name__}, 503, {"Retry-After": "1"})

    async def run() -> None:
        service = NaiveService(settings)
        turns = "/v1/conversations/{conversation}/turns"
        routes = [
            Route("/health/live", lambda _request: JSONResponse({})),
            Route("/v1/conversations", service.converse, methods=["POST"]),
            Route(turns, service.say, methods=["POST"]),
            Route(turns + "/{turn}/stream", service.read_on),
        ]
        app = Starlette(routes=routes, exception_handlers={Exception: failed})
        config = uvicorn.Config(app, port=settings.port, log_config=None, access_log=False, timeout_graceful_shutdown=5)
        await uvicorn.Server(config).serve()

    asyncio.run(run())
    return 0


def work(settings: Settings) -> int:
    async def prepare() -> None:
        connection = await asyncpg.connect(settings.database_url.get_secret_value(), timeout=10)
        await connection.execute(TABLE)
        await connection.close()

    asyncio.run(prepare())
    broker = declare(settings).broker
    dramatiq.Worker(broker, worker_threads=2, worker_timeout=200).start()
    threading.Event().wait()
    return 0


async def judge(world: World, observer: Observer, drain_seconds: float) -> Verdict:
    """The same book, held against the transcript in Redis and the memories in PostgreSQL."""
    verdict = Verdict(acknowledged=len(observer.acknowledged))
    began = time.monotonic()
    connection = await asyncpg.connect(world.postgres.url("rapport", superuser=True), timeout=10)
    try:
        wanted = {(told.conversation, told.content) for told in observer.acknowledged}
        while time.monotonic() - began < drain_seconds:
            facts = await connection.fetch("SELECT conversation_id, seq, content FROM naive_memories")
            if wanted <= {(row["conversation_id"], row["content"]) for row in facts}:
                verdict.drained = time.monotonic() - began
                break
            await asyncio.sleep(0.3)
    finally:
        await connection.close()
    messages: list[dict[str, Any]] = []
    async with redis.asyncio.Redis.from_url(world.valkey.url) as client:
        async for key in client.scan_iter("buffer:*"):
            raw: Any = await client.lrange(key, 0, -1)
            for at, line in enumerate(map(json.loads, raw)):
                messages.append({**line, "conversation_id": key.decode()[7:], "seq": at + 1})
    of_book(verdict, observer)
    of_transcript(verdict, observer, messages)
    of_memories(verdict, observer, facts)
    return verdict


def of_memories(verdict: Verdict, observer: Observer, facts: list[Any]) -> None:
    """What was said is told apart by its words: its place in the transcript may have been lost, and given again."""
    places = {told.content: at for at, told in enumerate(observer.told)}
    said = [
        {"conversation_id": told.conversation, "seq": at, "role": "user", "content": told.content}
        for at, told in enumerate(observer.told)
        if told.acknowledged
    ]
    learnt = [{"conversation_id": row["conversation_id"], "seq": places[row["content"]]} for row in facts]
    of_learning(verdict, said, [], learnt)
