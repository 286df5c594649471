"""/health and /metrics: what works, told honestly."""

import asyncio
import time
from collections.abc import Awaitable

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, Field
from starlette.responses import JSONResponse, Response

from memory.errors import LongTermMemoryError
from service.dependencies import Context
from service.runtime import Runtime

router = APIRouter(tags=["health"])

CHECK_SECONDS = 2.0


class Dependency(BaseModel):
    state: str = Field(description="up, down, or off (not configured)")
    required: bool = Field(description="Without a required one this instance takes no turns")
    elapsed_ms: float
    detail: str = ""


class Health(BaseModel):
    status: str = Field(description="ready, degraded (turns work, something else doesn't), draining, or unavailable")
    dependencies: dict[str, Dependency]


@router.get("/health/live", summary="The process runs")
async def live() -> dict[str, str]:
    return {"status": "alive"}


@router.get("/health/ready", responses={503: {"model": Health}}, summary="This instance takes turns")
async def ready(context: Context) -> JSONResponse:
    """503 when it doesn't. Redis and the model server may be away without that: see `dependencies`."""
    names = ("postgresql", "redis", "queue", "backends", "background")
    checks = (_postgresql(context), _redis(context), _queue(context), _backends(context), _background(context))
    found = dict(zip(names, await asyncio.gather(*(_timed(check) for check in checks)), strict=True))
    if context.chat.draining:
        status = "draining"
    elif any(dependency.required and dependency.state == "down" for dependency in found.values()):
        status = "unavailable"
    else:
        status = "degraded" if any(dependency.state == "down" for dependency in found.values()) else "ready"
    body = Health(status=status, dependencies=found)
    return JSONResponse(body.model_dump(), status_code=200 if status in {"ready", "degraded"} else 503)


@router.get("/metrics", summary="Prometheus metrics", include_in_schema=False)
async def metrics() -> Response:
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)


async def _timed(check: Awaitable[tuple[str, bool, str]]) -> Dependency:
    began = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            state, required, detail = await check
    except TimeoutError:
        state, required, detail = "down", False, f"no answer in {CHECK_SECONDS:g} s"
    return Dependency(
        state=state, required=required, elapsed_ms=round((time.perf_counter() - began) * 1000, 2), detail=detail
    )


async def _postgresql(context: Runtime) -> tuple[str, bool, str]:
    try:
        async with asyncio.timeout(CHECK_SECONDS), context.database.system() as connection:
            await connection.fetchval("SELECT 1")
    except (LongTermMemoryError, TimeoutError) as error:
        return "down", True, type(error).__name__
    return "up", True, ""


async def _redis(context: Runtime) -> tuple[str, bool, str]:
    if context.link is None:
        return "off", False, "REDIS_ENABLED=false: live state in this process"
    return (
        ("up", False, "")
        if await context.link.ping()
        else ("down", False, "turns go on from PostgreSQL; replies are not resumable")
    )


async def _queue(context: Runtime) -> tuple[str, bool, str]:
    ok, detail = await context.jobs.check()
    return "up" if ok else "down", False, detail


async def _background(context: Runtime) -> tuple[str, bool, str]:
    ended = context.background.ended
    if not ended:
        return "up", False, ""
    return "down", any(ended.values()), f"ended by themselves: {', '.join(sorted(ended))}; restart this instance"


async def _backends(context: Runtime) -> tuple[str, bool, str]:
    providers = context.backends.providers
    if not providers:
        return "down", False, "no model server is configured: set LLM_BACKENDS, OPENAI_API_KEY or LMSTUDIO_URL"
    resting = [provider.name for provider in providers if provider.is_resting]
    return (
        ("down" if len(resting) == len(providers) else "up"),
        False,
        f"resting: {', '.join(resting)}" if resting else "",
    )
