"""/docs: the API's documentation page, from files that come with a package, so that it works offline."""

from importlib.util import find_spec
from pathlib import Path

from fastapi import APIRouter
from starlette.responses import FileResponse, HTMLResponse, Response

from service.errors import NotFoundError

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Rapport API</title>
<link rel="icon" href="/favicon.ico">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  tryItOutEnabled: false,
  docExpansion: "list",
  presets: [SwaggerUIBundle.presets.apis],
});
"""
HEADERS = {
    # Swagger UI sets styles on its elements; scripts are files of ours only
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
}


def _assets() -> Path:
    # found, not imported: only its files are wanted
    spec = find_spec("fastapi_offline")
    if spec is None or spec.origin is None:
        raise NotFoundError("The files of the documentation page are not installed; /openapi.json has it all.")
    return Path(spec.origin).parent / "static"


@router.get("/docs")
async def docs() -> Response:
    return HTMLResponse(PAGE, headers=HEADERS)


@router.get("/docs/start.js")
async def start() -> Response:
    return Response(START, media_type="text/javascript")


@router.get("/docs/{name}")
async def asset(name: str) -> Response:
    if name not in {"swagger-ui.css", "swagger-ui-bundle.js"}:
        raise NotFoundError("There is no such file.")
    return FileResponse(_assets() / name, headers={"Cache-Control": "public, max-age=86400"})
