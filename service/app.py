"""The HTTP application, put together in one place so that the order can be seen."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from service import docs, health
from service.auth import routes as session_routes
from service.chat import branches
from service.chat import routes as chat_routes
from service.chat.stream_docs import with_event_schemas
from service.compliance import routes as compliance_routes
from service.errors import InvalidRequestError, RapportError, openai_shape
from service.exports import routes as export_routes
from service.imports import routes as import_routes
from service.llm import routes as backend_routes
from service.memories import routes as memory_routes
from service.middleware import BodyCap, ResponseHeaders, TrustedHost
from service.openai import routes as openai_routes
from service.policies import load_policies
from service.runtime import Runtime, open_runtime
from service.settings import Settings
from service.translation import translate
from service.web import routes as web_routes

log = structlog.get_logger(__name__)

DESCRIPTION = """A companion chat service that remembers. Replies stream as server-sent events, survive a lost connection
and a dead server, and can be resumed on any instance; memories can be seen, corrected and erased by their owner.

Every error is a problem object (RFC 9457) with a stable `code` and a `detail` that says what to do; on the OpenAI door it
has OpenAI's shape."""


def create_app(settings: Settings, runtime: Runtime | None = None) -> FastAPI:
    """Build the application. With `runtime` given (tests), it is used as it is and closed by its owner."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if runtime is not None:
            app.state.runtime = runtime
            yield
            return
        async with open_runtime(settings) as opened:
            app.state.runtime = opened
            yield

    app = FastAPI(
        title="Rapport",
        version="0.1.0",
        description=DESCRIPTION,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_tags=[
            {"name": "chat", "description": "Conversations and streamed turns"},
            {"name": "memories", "description": "What is remembered: see it, correct it, erase it"},
            {"name": "operators", "description": "For whoever runs the service"},
            {"name": "openai", "description": "For clients of the OpenAI API: change the base URL and the key"},
        ],
    )
    app.state.settings = settings
    # in the order in which they are asked for most: each router in front costs a look at its paths. Import before chat:
    # /v1/conversations/import must not be taken for a conversation's id
    for router in (
        import_routes.router,
        chat_routes.router,
        openai_routes.router,
        branches.router,
        memory_routes.router,
        export_routes.router,
        health.router,
        session_routes.router,
        compliance_routes.router,
        backend_routes.router,
        docs.router,
        web_routes.router,
    ):
        app.include_router(router)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _any)
    for family in _families():
        app.add_exception_handler(family, _any)
    # added last, seen first
    app.add_middleware(
        BodyCap, limit=settings.body_max_bytes, larger={"/v1/conversations/import": settings.import_max_bytes}
    )
    app.add_middleware(TrustedHost, names=settings.allowed_hosts, development=settings.embedded)
    app.add_middleware(ResponseHeaders)
    _document_events(app, settings)
    return app


def _families() -> tuple[type[Exception], ...]:
    """Expected errors: handled where they arise, so that the server doesn't log them as crashes."""
    from memory.errors import LongTermMemoryError
    from service.llm.errors import BackendError
    from sessions.errors import SessionsError

    return RapportError, LongTermMemoryError, BackendError, SessionsError


def _answer(request: Request, error: RapportError) -> JSONResponse:
    if request.url.path.startswith(("/v1/chat/", "/v1/models")):
        return JSONResponse(openai_shape(error), status_code=error.status, headers=error.headers)
    body = {**error.problem(), "instance": request.url.path}
    return JSONResponse(body, status_code=error.status, headers=error.headers, media_type="application/problem+json")


async def _any(request: Request, error: Exception) -> JSONResponse:
    translated = translate(error)
    if translated.status >= 500 and translated.code == "internal_error":
        log.error("internal_error", path=request.url.path, exc_info=error)
    return _answer(request, translated)


async def _http(request: Request, error: Exception) -> JSONResponse:
    """What the router itself refuses: no such path, wrong method, a body that breaks off."""
    assert isinstance(error, HTTPException)  # noqa: S101
    code = {404: "not_found", 405: "method_not_allowed", 400: "bad_request"}.get(error.status_code, "http_error")
    translated = RapportError(str(error.detail), code=code, headers=error.headers)
    if error.status_code == 405:
        # a path has several routes here, and the router names the methods of one
        translated.headers["Allow"] = ", ".join(_methods_at(request))
    translated.status, translated.title = error.status_code, str(error.detail)
    return _answer(request, translated)


def _methods_at(request: Request) -> list[str]:
    found: set[str] = set()
    for route in request.app.routes:
        matched, _ = route.matches({**request.scope, "method": "GET"})
        if matched is not Match.NONE:
            found |= getattr(route, "methods", None) or set()
    return sorted(found)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    found: list[dict[str, Any]] = [
        {"field": ".".join(str(part) for part in item["loc"]), "reason": item["msg"]} for item in error.errors()[:20]
    ]
    first = found[0] if found else {"field": "body", "reason": "invalid"}
    code = "invalid_json" if any(item["type"] == "json_invalid" for item in error.errors()) else "invalid_request"
    detail = f"{first['field']}: {first['reason']}"
    return _answer(request, InvalidRequestError(detail, code=code, errors=found))


OF_ROUTES = (("NewConversation", "route"), ("NewMemory", "route"))
OF_LEVELS = (("DecisionIn", "level"), ("RevocationIn", "level"))


def with_names(document: dict[str, Any], routes: Sequence[str], levels: Sequence[str]) -> dict[str, Any]:
    """Add the names that this deployment's policies give to routes and levels: nothing else is taken in their place."""
    schemas = document["components"]["schemas"]
    for fields, names in ((OF_ROUTES, routes), (OF_LEVELS, levels)):
        for schema, field in fields if names else ():
            described = schemas[schema]["properties"][field]
            texts = [one for one in described.get("anyOf", [described]) if one.get("type") == "string"]
            for text in texts:
                text["enum"] = list(names)
    return document


def _document_events(app: FastAPI, settings: Settings) -> None:
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            document = with_event_schemas(generate())
            policies = load_policies(settings.routes_file)
            app.openapi_schema = with_names(document, tuple(policies.gate.routes), tuple(policies.levels))
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]
