"""Who is calling, as FastAPI dependencies. They need `request.app.state.runtime.authenticator`."""

from collections.abc import Mapping
from typing import Annotated, cast
from urllib.parse import urlsplit

from fastapi import Depends, Request

from service.auth.api_keys import PREFIX
from service.auth.authenticator import Authenticator
from service.auth.errors import AuthenticationError, CrossSiteError, OperatorOnlyError, TokenMalformedError
from service.errors import InvalidRequestError
from service.limits import Limits, address_of
from service.principal import Principal

COOKIE = "rapport_session"
USER_HEADER = "x-rapport-user"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def authenticator_of(request: Request) -> Authenticator:
    return cast("Authenticator", request.app.state.runtime.authenticator)


def bearer_of(headers: Mapping[str, str]) -> str | None:
    """The token of the Authorization header. Raises `TokenMalformedError` for another scheme."""
    value = headers.get("authorization")
    if value is None:
        return None
    scheme, _, token = value.partition(" ")
    token = token.strip()
    if scheme.lower() != "bearer" or not token:
        raise TokenMalformedError("The Authorization header must be `Bearer` and a token.")
    return token


def check_same_site(headers: Mapping[str, str], *, required: bool = True) -> None:
    """Refuse what a page of another site sent with our cookie.

    Every current browser sends `Sec-Fetch-Site` or `Origin` with an unsafe request; `required` refuses those that send
    neither. Raises `CrossSiteError`.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        same = site == "same-origin"
    elif origin is not None:
        same = origin != "null" and urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    else:
        same = not required
    if not same:
        raise CrossSiteError("This request came from another site. Send a bearer token instead of the cookie.")


def _on_behalf_of(headers: Mapping[str, str]) -> str | None:
    value = headers.get(USER_HEADER)
    if value is None:
        return None
    try:
        return value.encode("latin-1").decode("utf-8")  # header values arrive as latin-1 whatever was sent
    except UnicodeDecodeError as error:
        raise InvalidRequestError("X-Rapport-User must be UTF-8.") from error


async def current_principal(request: Request) -> Principal:
    """The caller: the bearer token first, then the page's cookie.

    Raises an `AuthenticationError`, or `RateLimitedError` for an address that was refused too often.
    """
    try:
        return await authenticator_of(request).authenticate(_token_of(request), _on_behalf_of(request.headers))
    except AuthenticationError:
        # told to wait instead, once an address has been refused too often: whoever holds a good token is not held up
        await cast("Limits", request.app.state.runtime.limits).check(None, address_of(request), "refused")
        raise


def _token_of(request: Request) -> str | None:
    token = bearer_of(request.headers)
    if token is None:
        token = request.cookies.get(COOKIE)
        if token is not None:
            if token.startswith(PREFIX):
                raise TokenMalformedError("An API key belongs in the Authorization header.")
            if request.method not in SAFE_METHODS:
                check_same_site(request.headers)
    return token


Caller = Annotated[Principal, Depends(current_principal)]


async def operator_only(caller: Caller) -> Principal:
    """The caller, who must be an operator. Raises `OperatorOnlyError`."""
    if not caller.is_operator:
        raise OperatorOnlyError("This is for operators.")
    return caller


Operator = Annotated[Principal, Depends(operator_only)]
