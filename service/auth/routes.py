"""/v1/session: the page's way to be somebody. The cookie holds the same kind of token that others send as a header."""

import time
from typing import Annotated

from fastapi import APIRouter, Body, Request, Response

from service.auth.api_keys import PREFIX
from service.auth.dependencies import COOKIE, Caller, authenticator_of, bearer_of, check_same_site
from service.auth.errors import AuthenticationError, TokenMalformedError
from service.auth.schemas import MAX_COOKIE, Session, SessionRequest
from service.dependencies import Context
from service.errors import TooLargeError
from service.limits import address_of
from service.principal import Principal
from service.problems import problems

router = APIRouter(prefix="/v1/session", tags=["session"])


def _session(response: Response, principal: Principal) -> Session:
    response.headers["Cache-Control"] = "no-store"
    return Session(
        subject=principal.subject,
        expires_at=principal.expires_at,
        anonymous=principal.anonymous,
        roles=sorted(principal.roles),
    )


@router.get("", summary="Who am I", responses=problems())
async def read_session(caller: Caller, response: Response) -> Session:
    return _session(response, caller)


@router.post(
    "",
    summary="Sign the page in, or begin an anonymous session",
    responses=problems(
        {
            403: "`cross_site_request` or `anonymous_disabled`",
            413: "`token_too_large`: send it as a bearer token instead",
        }
    ),
)
async def open_session(
    request: Request,
    response: Response,
    context: Context,
    body: Annotated[SessionRequest | None, Body()] = None,
) -> Session:
    """Sets the cookie `rapport_session`. Without a token and a good cookie, an anonymous id is made."""
    # a foreign page must not sign its visitor in as somebody else; what sends no such header is no browser
    check_same_site(request.headers, required=False)
    authenticator = authenticator_of(request)
    token = body.token if body is not None else None
    if token is None:
        known = await _known_cookie(request)
        if known is not None:
            return _session(response, known)
        await context.limits.check(None, address_of(request), "mint")
        token = authenticator.mint_anonymous()
    else:
        await context.limits.check(None, address_of(request), "login")
    if token.startswith(PREFIX):
        raise TokenMalformedError("An API key belongs in the Authorization header, not in a browser.")
    if len(token) > MAX_COOKIE:
        detail = f"Browsers drop cookies as large as this token ({len(token)} bytes); send it as a bearer token."
        raise TooLargeError(detail, code="token_too_large")
    principal = await authenticator.authenticate(token)
    response.set_cookie(
        COOKIE,
        token,
        max_age=max(0, int(principal.expires_at.timestamp() - time.time())),
        path="/",
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="strict",
    )
    return _session(response, principal)


async def _known_cookie(request: Request) -> Principal | None:
    cookie = request.cookies.get(COOKIE)
    if not cookie or cookie.startswith(PREFIX):
        return None
    try:
        return await authenticator_of(request).authenticate(cookie)
    except AuthenticationError:
        return None


@router.delete("", status_code=204, summary="Sign out", responses=problems({403: "`cross_site_request`"}))
async def close_session(request: Request) -> Response:
    """Clears the cookie and takes its token back, everywhere within seconds. Signing out twice is fine."""
    token = bearer_of(request.headers)
    if token is None:
        token = request.cookies.get(COOKIE)
        if token is not None:
            check_same_site(request.headers)
    if token and not token.startswith(PREFIX):
        await _revoke(request, token)
    response = Response(status_code=204, headers={"Cache-Control": "no-store"})
    response.delete_cookie(COOKIE, path="/", secure=request.url.scheme == "https", httponly=True, samesite="strict")
    return response


async def _revoke(request: Request, token: str) -> None:
    authenticator = authenticator_of(request)
    try:
        principal = await authenticator.authenticate(token)
    except AuthenticationError:
        return  # it is worth nothing already
    await authenticator.revoke(principal)
