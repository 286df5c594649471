"""A stateful turn on LangGraph: history from a PostgreSQL checkpointer, ChatOpenAI, FastAPI and sse-starlette."""

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
from fastapi import FastAPI
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_core.runnables import RunnableConfig
from langchain_openai import ChatOpenAI
from langgraph.checkpoint.postgres.aio import AsyncPostgresSaver
from langgraph.graph import END, START, MessagesState, StateGraph
from psycopg.rows import dict_row
from psycopg_pool import AsyncConnectionPool
from pydantic import BaseModel
from sse_starlette.sse import EventSourceResponse

UPSTREAM = os.environ.get("UPSTREAM", "")
DSN = os.environ.get("GRAPH_DSN", "")
SYSTEM = SystemMessage("You are a kind companion. " * 8)
HISTORY = 20


class Body(BaseModel):
    session: str
    message: str
    model: str


def compiled(checkpointer: Any) -> Any:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=2000)
    client = httpx.AsyncClient(limits=limits, timeout=120)
    models: dict[str, Any] = {}

    async def call(state: Any, config: RunnableConfig) -> Any:
        name = config["configurable"]["model"]
        if name not in models:
            models[name] = ChatOpenAI(
                model=name,
                base_url=f"{UPSTREAM}/v1",
                api_key="none",
                streaming=True,
                max_retries=0,
                http_async_client=client,
            )
        return {"messages": [await models[name].ainvoke([SYSTEM, *state["messages"]], config)]}

    graph = StateGraph(MessagesState)
    graph.add_node("model", call)
    graph.add_edge(START, "model")
    graph.add_edge("model", END)
    return graph.compile(checkpointer=checkpointer)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    settings = {"autocommit": True, "prepare_threshold": 0, "row_factory": dict_row}
    async with AsyncConnectionPool(DSN, min_size=2, max_size=20, kwargs=settings, open=False) as pool:
        checkpointer = AsyncPostgresSaver(pool)
        await checkpointer.setup()
        app.state.graph = compiled(checkpointer)
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/seed")
async def seed(n: int) -> dict[str, int]:
    for i in range(n):
        kinds = (HumanMessage, AIMessage)
        said = [kinds[j % 2](f"message {j} " + "some words of talk " * 10) for j in range(HISTORY)]
        config = {"configurable": {"thread_id": f"s{i}", "model": "x"}}
        await app.state.graph.aupdate_state(config, {"messages": said}, as_node="model")
    return {"seeded": n}


@app.post("/chat")
async def chat(body: Body) -> EventSourceResponse:
    async def events() -> AsyncIterator[dict[str, Any]]:
        asked = {"messages": [HumanMessage(body.message)]}
        config = {"configurable": {"thread_id": body.session, "model": body.model}}
        async for chunk, _ in app.state.graph.astream(asked, config, stream_mode="messages"):
            if chunk.content and type(chunk).__name__ == "AIMessageChunk":
                yield {"event": "token", "data": json.dumps({"text": chunk.content})}
        yield {"event": "done", "data": "{}"}

    return EventSourceResponse(events())
