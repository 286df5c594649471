"""The page at `/` and its parts under `/static/`: files of this package, read once, under a strict policy."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from fastapi import APIRouter, Request, Response

router = APIRouter(include_in_schema=False)

_STATIC = Path(__file__).parent / "static"

# Only these kinds are served: a stray file in the folder (an editor's backup, a map) stays private.
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    # turns every innerHTML-like sink into an exception: model text can only become text nodes
    "require-trusted-types-for 'script'; trusted-types 'none'"
)

PAGE_HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "Content-Security-Policy": CONTENT_SECURITY_POLICY,
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "Referrer-Policy": "no-referrer",
        "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
        "Cross-Origin-Opener-Policy": "same-origin",
        "Cross-Origin-Resource-Policy": "same-origin",
        # Always asked again, answered with 304 while unchanged: modules of two releases never mix for long.
        "Cache-Control": "no-cache",
    }
)


@dataclass(frozen=True, slots=True)
class Asset:
    """One file of the page, ready to send."""

    body: bytes
    media_type: str
    etag: str


@lru_cache(maxsize=1)
def load_assets() -> Mapping[str, Asset]:
    """Every servable file by its name below `/static/`.

    Requests are looked up here and never on disk, so no path of a request can leave the folder.
    """
    assets = {}
    for path in sorted(_STATIC.rglob("*")):
        media_type = _MEDIA_TYPES.get(path.suffix)
        if media_type and path.is_file():
            body = path.read_bytes()
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            assets[path.relative_to(_STATIC).as_posix()] = Asset(body, media_type, etag)
    return MappingProxyType(assets)


def _is_unchanged(request: Request, asset: Asset) -> bool:
    known = request.headers.get("if-none-match", "")
    # Proxies that compress turn a strong tag into a weak one; the content is the same.
    return asset.etag in {tag.strip().removeprefix("W/") for tag in known.split(",")} or known.strip() == "*"


def _answer(request: Request, name: str) -> Response:
    asset = load_assets().get(name)
    if asset is None:
        return Response("Not found.\n", status_code=404, media_type="text/plain", headers=dict(PAGE_HEADERS))
    headers = {**PAGE_HEADERS, "ETag": asset.etag}
    if _is_unchanged(request, asset):
        return Response(status_code=304, headers=headers)
    return Response(asset.body, media_type=asset.media_type, headers=headers)


@router.api_route("/", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    return _answer(request, "index.html")


@router.api_route("/static/{name:path}", methods=["GET", "HEAD"])
async def static(request: Request, name: str) -> Response:
    return _answer(request, name)


@router.api_route("/favicon.ico", methods=["GET", "HEAD"])
async def favicon(request: Request) -> Response:
    # Browsers ask for it whatever the page says; answering keeps a 404 out of their consoles.
    return _answer(request, "icon.svg")
