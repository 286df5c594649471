"""Check a JWT (RFC 7519) as RFC 8725 advises: one algorithm a key, every claim asked for, none followed blindly."""

import base64
import binascii
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jwt
import orjson

from service.auth.errors import KeysUnavailableError, TokenExpiredError, TokenInvalidError, TokenMalformedError
from service.auth.keys import KeyRing

BASE64URL = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
MAX_TOKEN = 8192
MAX_NAME = 255
REQUIRED = ("exp", "iat", "sub", "aud", "iss", "jti")
TYPES = frozenset({"jwt", "at+jwt", "application/at+jwt"})
# each of these would have the verifier follow the token's own advice about how to verify it
REFUSED_HEADERS = frozenset({"crit", "jku", "x5u", "jwk", "x5c", "b64", "zip", "enc", "epk"})
LATEST = 4_102_444_800
"""2100-01-01: no honest token lives longer, and beyond some point dates overflow."""


@dataclass(frozen=True, slots=True)
class TrustedIssuer:
    name: str
    audience: str
    ring: KeyRing


def read_unverified(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims as they stand there, for choosing the key and nothing else. Raises `TokenMalformedError`."""
    if len(token) > MAX_TOKEN:
        raise TokenMalformedError(f"The token is longer than {MAX_TOKEN} characters.")
    parts = token.split(".")
    if len(parts) != 3 or not all(parts):
        raise TokenMalformedError("The token is not a signed JWT of three parts.")
    _decode(parts[2])
    return _part(parts[0]), _part(parts[1])


def _decode(text: str) -> bytes:
    # the decoder itself would pass over foreign characters, and take + and / too
    if BASE64URL.fullmatch(text) is None:
        raise TokenMalformedError("The token's parts are not base64url.")
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error as error:
        raise TokenMalformedError("The token's parts are not base64url.") from error


def _part(text: str) -> dict[str, Any]:
    try:
        value = orjson.loads(_decode(text))
    except orjson.JSONDecodeError as error:
        raise TokenMalformedError("The token's parts are not JSON.") from error
    if not isinstance(value, dict):
        raise TokenMalformedError("The token's parts are not JSON objects.")
    return value


async def verify(
    token: str, issuers: Mapping[str, TrustedIssuer], *, leeway: float, now: float
) -> tuple[TrustedIssuer, dict[str, Any]]:
    """The issuer that signed the token, and its claims.

    Raises an `AuthenticationError`, or `KeysUnavailableError` when the issuer's keys could not be read yet.
    """
    header, claims = read_unverified(token)
    name = claims.get("iss")
    issuer = issuers.get(name) if isinstance(name, str) else None
    if issuer is None:
        raise TokenInvalidError("The token's issuer is not one that this service trusts.")
    algorithm, key = await _key_for(header, issuer)
    try:
        verified = jwt.decode(
            token,
            key=key,
            algorithms=[algorithm],
            audience=issuer.audience,
            issuer=issuer.name,
            # times are checked below, on the clock that was given
            options={"require": list(REQUIRED), "verify_exp": False, "verify_nbf": False, "verify_iat": False},
        )
    except jwt.InvalidSignatureError as error:
        raise TokenInvalidError("The token's signature is not its issuer's.") from error
    except jwt.MissingRequiredClaimError as error:
        raise TokenInvalidError(f"The token lacks the claim {error.claim!r}.") from error
    except jwt.InvalidAudienceError as error:
        raise TokenInvalidError("The token is meant for another service.") from error
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise TokenInvalidError("The token does not hold up.") from error
    _check_names(verified)
    _check_times(verified, leeway, now)
    return issuer, verified


async def _key_for(header: dict[str, Any], issuer: TrustedIssuer) -> tuple[str, Any]:
    if REFUSED_HEADERS & header.keys():
        raise TokenInvalidError("The token's header asks for something that is not accepted.")
    kind = header.get("typ")
    if not isinstance(kind, str) or kind.lower() not in TYPES:
        raise TokenInvalidError("The token is not of type JWT or at+jwt.")
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= 256:
        raise TokenInvalidError("The token does not say which key signed it.")
    key = await issuer.ring.find(kid)
    if key is None:
        if not issuer.ring.ready:
            raise KeysUnavailableError(
                "The identity provider's keys can't be read at the moment. Try again.", retry_after=5
            )
        raise TokenInvalidError("The token's key is not one of its issuer's.")
    # as strings, before any cryptography: the header may not choose
    if header.get("alg") != key.algorithm:
        raise TokenInvalidError("The token's algorithm is not its key's.")
    return key.algorithm, key.key


def _check_names(claims: Mapping[str, Any]) -> None:
    for claim in ("sub", "jti"):
        if not is_name(claims[claim]):
            raise TokenInvalidError(f"The token's {claim!r} must be 1 to {MAX_NAME} printing characters.")


def is_name(value: object) -> bool:
    """True for a text that can name a user: without control characters (NUL would join two names) and surrogates."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        return False
    return not any(unicodedata.category(character) in {"Cc", "Cs"} for character in value)


def _check_times(claims: Mapping[str, Any], leeway: float, now: float) -> None:
    times = {claim: claims[claim] for claim in ("exp", "iat", "nbf") if claim in claims}
    for claim, value in times.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not math.isfinite(value) or not 0 <= value <= LATEST:
            raise TokenInvalidError(f"The token's {claim!r} is not a time.")
    if times["exp"] <= now - leeway:
        raise TokenExpiredError("The token has expired. Sign in again.")
    if times["iat"] > now + leeway or times.get("nbf", 0) > now + leeway:
        raise TokenInvalidError("The token is not valid yet.")
    if times["exp"] <= times["iat"]:
        raise TokenInvalidError("The token ends before it begins.")
