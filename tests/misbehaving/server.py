"""The application: chat, models, embeddings, LM Studio's native list, llama.cpp's properties, and a control endpoint.

The model's name chooses the quirk; what follows a `#` only keeps tests apart ("429-once#a").
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from memory.embedders import MiniLmEmbedder
from tests.misbehaving import background, breaking, refusals, streams
from tests.misbehaving.calls import QUIRKS, Call, State, behave, quirk

__all__ = ["application", "breaking", "refusals", "streams"]

STATE = web.AppKey("state", State)
DIMENSIONS = 8
LOADING = 0.1
ASLEEP = "text-embedding-asleep"
"""On disk and not in memory: asked for vectors it is loaded just in time, and evicts; by name, it doesn't."""
REAL: list[MiniLmEmbedder] = []


@quirk("jit-copies", "lmstudio#1751: several requests at once load several copies")
async def jit_copies(call: Call) -> web.StreamResponse:
    if call.model not in call.state.loaded:
        call.state.copies[call.model] += 1
        await asyncio.sleep(LOADING)
        call.state.loaded.add(call.model)
    return await behave(call)


@quirk("jit-evict", "lmstudio#671, #1796: another model's request ends this reply")
async def jit_evict(call: Call) -> web.StreamResponse:
    evicted = asyncio.Event()
    call.state.running.add(evicted)
    response = await call.open()
    try:
        for word in call.reply().split(" "):
            await call.words(response, word + " ", pause=0.03)
            if evicted.is_set():
                await response.write(b"data: " + orjson.dumps({"error": "Model unloaded."}) + b"\n\n")
                return response
    finally:
        call.state.running.discard(evicted)
    return await call.finish(response)


async def chat(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    try:
        body = orjson.loads(await request.read())
    except orjson.JSONDecodeError:
        return web.json_response(
            {"error": {"message": "could not parse the JSON body", "type": "invalid_request_error"}}, status=400
        )
    call = Call(request, body, state)
    state.requests.append({"body": body, "authorization": request.headers.get("Authorization", "")})
    state.counts[call.model] += 1
    state.now[call.model] += 1
    state.most_at_once[call.model] = max(state.most_at_once[call.model], state.now[call.model])
    name = (state.override or call.model).partition("#")[0]
    known = QUIRKS.get(name)
    try:
        if known is None:
            message = f"The model `{name}` does not exist"
            return web.json_response({"error": {"message": message, "code": "model_not_found"}}, status=404)
        return await known.answer(call)
    except (ConnectionResetError, asyncio.CancelledError):
        state.closed_early[call.model] += 1
        raise
    finally:
        state.now[call.model] -= 1


async def models(request: web.Request) -> web.Response:
    names = ["text-embedding-tiny", ASLEEP, *sorted(QUIRKS)]
    return web.json_response(
        {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "tests"} for name in names]}
    )


async def native_models(request: web.Request) -> web.Response:
    loaded = [{"id": "normal", "config": {"context_length": 4096}}]
    woken = [{"id": ASLEEP}] if ASLEEP in request.app[STATE].loaded else []
    return web.json_response(
        {
            "models": [
                {
                    "type": "embedding",
                    "key": "text-embedding-tiny",
                    "loaded_instances": [{"id": "text-embedding-tiny"}],
                },
                {"type": "embedding", "key": ASLEEP, "loaded_instances": woken},
                {"type": "llm", "key": "llm-typed-embedder", "loaded_instances": []},
                {"type": "llm", "key": "no-usage", "max_context_length": 131072, "loaded_instances": []},
                {"type": "llm", "key": "normal", "max_context_length": 262144, "loaded_instances": loaded},
            ]
        }
    )


async def native_load(request: web.Request) -> web.Response:
    """Loads one more copy, as LM Studio does, and evicts nothing."""
    state = request.app[STATE]
    model = str((await request.json())["model"])
    state.requests.append({"load": model})
    state.copies[model] += 1
    await asyncio.sleep(LOADING)
    state.loaded.add(model)
    return web.json_response({"type": "embedding", "instance_id": model, "status": "loaded"})


async def props(request: web.Request) -> web.Response:
    return web.json_response({"default_generation_settings": {"n_ctx": 2048}, "total_slots": 2})


async def embeddings(request: web.Request) -> web.StreamResponse:
    state = request.app[STATE]
    body = orjson.loads(await request.read())
    model = str(body.get("model", "")).partition("#")[0]
    texts = body.get("input")
    state.requests.append({"embeddings": body})
    if model == ASLEEP and model not in state.loaded:
        state.copies[model] += 1
        state.loaded.add(model)
        for running in state.running:
            running.set()
    if model == "llm-typed-embedder":
        return web.json_response({"error": "No models loaded. Please load a model."}, status=404)
    texts = [texts] if isinstance(texts, str) else texts
    if state.override or model in {"500", "key-refused", "key-bad-refused", "429-once"}:
        refused = await _refused(request, state, state.override or str(body.get("model", "")))
        if refused is not None:
            return refused
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return web.json_response({"error": "'input' field must be a string or an array of strings"}, status=400)
    if model == "input-too-large" and any(len(text) > 1800 for text in texts):
        message = (
            "input (1024 tokens) is too large to process. increase the physical batch size (current batch size: 512)"
        )
        return web.json_response({"error": {"code": 500, "message": message, "type": "server_error"}}, status=500)
    if model == "one-text-refused" and any("bad" in text for text in texts):
        return web.json_response({"error": {"message": "invalid input", "type": "invalid_request_error"}}, status=400)
    if model == "text-embedding-real":
        return _embedded(await _real(texts), model)
    width = DIMENSIONS + 1 if model == "wrong-dimensions" else int(body.get("dimensions") or DIMENSIONS)
    rows: list[dict[str, Any]] = [
        {"object": "embedding", "index": at, "embedding": vector(text, width)} for at, text in enumerate(texts)
    ]
    if model == "shuffled":
        rows.reverse()
    if model == "one-missing":
        rows.pop()
    return _embedded(rows, model)


def _embedded(rows: list[dict[str, Any]], model: str) -> web.Response:
    return web.json_response(
        {"object": "list", "data": rows, "model": model, "usage": {"prompt_tokens": 1, "total_tokens": 1}}
    )


async def _refused(request: web.Request, state: State, name: str) -> web.StreamResponse | None:
    """Fail as the chat of that name does; None when it would have answered."""
    state.counts[f"embeddings {name}"] += 1
    call = Call(request, {"model": name, "messages": []}, state)
    known = QUIRKS.get(name.partition("#")[0])
    if known is None:
        return None
    state.counts[name] += 1
    answer = await known.answer(call)
    return answer if answer.status >= 400 else None


async def _real(texts: list[str]) -> list[dict[str, Any]]:
    """What a server with a real model of 384 numbers answers: the same MiniLM, behind this door."""
    if not REAL:
        REAL.append(MiniLmEmbedder())
    vectors = await REAL[0].embed(texts)
    return [
        {"object": "embedding", "index": at, "embedding": row.astype(float).tolist()} for at, row in enumerate(vectors)
    ]


def vector(text: str, width: int) -> list[float]:
    seed = sum(text.encode()) or 1
    return [float((seed * (at + 3)) % 17 + 1) for at in range(width)]


async def control_state(request: web.Request) -> web.Response:
    state = request.app[STATE]
    return web.json_response(
        {
            "pid": os.getpid(),
            "counts": state.counts,
            "requests": state.requests,
            "closed_early": state.closed_early,
            "copies": state.copies,
            "most_at_once": state.most_at_once,
        }
    )


async def control_override(request: web.Request) -> web.Response:
    """Answer every model with one quirk from now on; an empty name ends it."""
    request.app[STATE].override = str((await request.json()).get("quirk", ""))
    return web.json_response({"quirk": request.app[STATE].override})


async def control_reset(request: web.Request) -> web.Response:
    state = request.app[STATE]
    state.override = ""
    for counter in (state.counts, state.closed_early, state.copies, state.most_at_once):
        counter.clear()
    state.requests.clear()
    state.loaded.clear()
    return web.json_response({})


async def quirks(request: web.Request) -> web.Response:
    return web.json_response({name: quirk.seen_in for name, quirk in sorted(QUIRKS.items())})


@web.middleware
async def open_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPNotFound:
        return web.json_response({"error": f"Unexpected endpoint or method. ({request.method} {request.path})"})


def application() -> web.Application:
    app = web.Application(client_max_size=1 << 26, middlewares=[open_errors])
    app[STATE] = State()
    app.router.add_post("/v1/chat/completions", chat)
    app.router.add_get("/v1/models", models)
    app.router.add_post("/v1/embeddings", embeddings)
    app.router.add_get("/api/v1/models", native_models)
    app.router.add_post("/api/v1/models/load", native_load)
    app.router.add_get("/props", props)
    app.router.add_get("/control/state", control_state)
    app.router.add_get("/control/quirks", quirks)
    app.router.add_post("/control/override", control_override)
    app.router.add_post("/control/reset", control_reset)
    background.add_routes(app, app[STATE])
    return app
