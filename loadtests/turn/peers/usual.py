"""A relay as it is usually written: FastAPI, pydantic, sse-starlette, httpx. It keeps nothing."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse

UPSTREAM = os.environ.get("UPSTREAM", "")


class Message(BaseModel):
    role: str
    content: str


class Body(BaseModel):
    model: str
    messages: list[Message]
    stream: bool = True


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=2000)
    app.state.client = httpx.AsyncClient(limits=limits, timeout=120)
    yield


app = FastAPI(lifespan=lifespan)


@app.post("/chat")
async def chat(body: Body) -> EventSourceResponse:
    async def events() -> AsyncIterator[dict[str, Any]]:
        url = f"{UPSTREAM}/v1/chat/completions"
        async with app.state.client.stream("POST", url, json=body.model_dump()) as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: ") or line == "data: [DONE]":
                    continue
                chunk = json.loads(line[6:])
                if chunk["choices"] and (text := chunk["choices"][0]["delta"].get("content")):
                    yield {"event": "token", "data": json.dumps({"text": text})}
        yield {"event": "done", "data": "{}"}

    return EventSourceResponse(events())
