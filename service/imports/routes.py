"""POST /v1/conversations/import: a conversation from elsewhere, as it streams in."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response, status
from starlette.requests import ClientDisconnect

from service.auth.dependencies import Caller
from service.dependencies import IMPORT, Context
from service.errors import InvalidRequestError, RapportError
from service.imports.schemas import ImportQuery, ImportResult
from service.imports.service import ImportOptions, import_conversation
from service.methods import takes_only_post
from service.problems import Responses, problems

router = APIRouter(prefix="/v1/conversations", tags=["import and export"])

EMBED_SECONDS = 20.0
"""How long an upload waits for vectors; proxies give up on an answer after 30 or 60 s."""

RESPONSES: Responses = {
    200: {"model": ImportResult, "description": "Everything in the file was here already"},
    **problems(
        {
            403: "`route_locked`: the conversation that this file was imported into is locked",
            409: "`turn_in_progress`: a reply is being written in the conversation that this file was imported into",
            413: "`too_large`: split it; parts with the same header and first message are one conversation",
            415: "`unsupported_media_type`: send the file itself as the body",
            422: "`import_format`, `import_empty`, `unknown_route` or `invalid_request`",
            503: "`store_unavailable`: send the file again; what is there already is not taken in twice",
        }
    ),
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            media: {
                "schema": {"type": "string", "format": "binary"},
                "example": '{"speaker": "Caroline", "text": "Hey Mel!", "at": "2023-05-08T13:56:00Z", "id": "D1:1"}\n'
                '{"speaker": "Melanie", "text": "Hey Caroline!", "at": "2023-05-08T13:57:00Z", "id": "D1:2"}\n',
            }
            for media in ("application/x-ndjson", "application/jsonl", "text/plain", "application/json")
        },
    }
}


class UnsupportedMediaError(RapportError):
    status, code, title = 415, "unsupported_media_type", "This kind of body can't be read"


takes_only_post(router, "/import")


@router.post(
    "/import",
    status_code=status.HTTP_201_CREATED,
    responses=RESPONSES,
    dependencies=[IMPORT],
    openapi_extra=BODY,
    summary="Import a conversation",
)
async def import_file(
    request: Request, response: Response, caller: Caller, context: Context, wish: Annotated[ImportQuery, Query()]
) -> ImportResult:
    """One message a line, as JSON: Rapport's own form (docs/import.md) or SillyTavern's chat files. With `format=letta` an
    agent file, with `format=mem0` what `get_all()` gives; what those programs remembered becomes facts marked as their word.

    Messages can be recalled at once and are learnt from in the background. A broken line is told by its number, and
    the rest goes in. The same file again adds nothing; a file that has grown adds what is new.
    """
    if wish.route not in context.policies.gate.routes:
        known = ", ".join(context.policies.gate.routes)
        raise InvalidRequestError(f"There is no route {wish.route!r}; there are: {known}.", code="unknown_route")
    _check_headers(request)
    report = await import_conversation(
        context.database,
        context.embedder,
        caller.owner,
        _body(request),
        ImportOptions(
            wish.format,
            wish.title,
            route=wish.route,
            time_zone=wish.time_zone,
            conversation=wish.conversation,
            embed_seconds=EMBED_SECONDS,
        ),
    )
    if report.conversation_id is not None:
        await context.live.forget(report.conversation_id)
        await context.jobs.wake_learner(caller.user_id, report.conversation_id)
    if report.already_there:
        response.status_code = status.HTTP_200_OK
    return ImportResult.of(report)


def _check_headers(request: Request) -> None:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind.startswith("multipart/"):
        raise UnsupportedMediaError("Send the file itself as the body, not a form: curl --data-binary @chat.jsonl")
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise UnsupportedMediaError("Send the file unpacked.")


async def _body(request: Request) -> AsyncIterator[bytes]:
    """The body as it arrives; the middleware ends it at IMPORT_MAX_BYTES."""
    try:
        async for chunk in request.stream():
            yield chunk
    except ClientDisconnect as error:
        raise InvalidRequestError("The upload broke off; send it again.", code="import_interrupted") from error
