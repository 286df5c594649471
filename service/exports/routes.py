"""GET /v1/export: everything that is kept of the caller."""

from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter
from starlette.responses import StreamingResponse

from service.auth.dependencies import Caller
from service.dependencies import IMPORT, Context
from service.exports.service import Export
from service.problems import Responses, problems

router = APIRouter(prefix="/v1/export", tags=["import and export"])

RESPONSES: Responses = {
    200: {
        "description": "The export, streamed",
        "content": {
            "application/json": {
                "schema": {"type": "object"},
                "example": {
                    "rapport_export": 1,
                    "exported_at": "2026-11-22T08:00:00Z",
                    "user": {"issuer": "rapport", "subject": "caroline", "time_zone": "UTC"},
                    "age_assurances": [],
                    "profiles": [],
                    "erasures": [],
                    "conversations": [{"id": "01937b3e-7a11-7c4e-9d6e-3f3b0d2d9a01", "title": "Mel", "messages": []}],
                    "facts": [{"text": "Caroline has a dog called Biscuit", "status": "active", "sources": []}],
                    "complete": True,
                },
            },
            "text/markdown": {"schema": {"type": "string"}},
        },
    },
    **problems(),
}


@router.get(
    "", responses=RESPONSES, dependencies=[IMPORT], response_class=StreamingResponse, summary="Export everything"
)
async def export(
    caller: Caller,
    context: Context,
    format: Literal["json", "markdown"] = "json",  # noqa: A002
) -> StreamingResponse:
    """Conversations with all messages, facts with sources and history, assurances, receipts of what was forgotten.

    The JSON ends with `"complete": true`, the Markdown with a line that says so: without it the download broke off.
    """
    taken = Export(context.database, caller.user_id)
    day = datetime.now(UTC).date().isoformat()
    if format == "json":
        content, media, name = taken.as_json(), "application/json", f"rapport-{day}.json"
    else:
        content, media, name = taken.as_markdown(), "text/markdown; charset=utf-8", f"rapport-{day}.md"
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return StreamingResponse(content, media_type=media, headers=headers)
