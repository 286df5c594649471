"""Age assertions: JWTs by which the application's backend says what it knows of a user's age."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from service.auth.errors import AuthConfigurationError, AuthenticationError, TokenExpiredError
from service.auth.keys import KeyRing
from service.auth.local_keys import AGE, ensure_key, key_path, read_signer
from service.auth.tokens import TrustedIssuer, is_name, verify
from service.compliance.config import AGE_AUDIENCE, FRESH_SECONDS, AgeConfig
from service.compliance.errors import (
    AssertionInvalidError,
    AssertionNotYoursError,
    AssertionStaleError,
    AssuranceDisabledError,
)
from service.principal import Principal

# What the operating systems' stores tell, as of 2026: Apple's Declared Age Range, Google's Play Age Signals.
BRACKETS = {"under_13": 13, "13_15": 16, "16_17": 18, "18_plus": None}
"""Below which age each puts a user."""


@dataclass(frozen=True, slots=True)
class AgeAssertion:
    """What an assertion says, its signature checked."""

    assertion_id: str
    provider: str
    method: str
    issued_at: datetime
    expires_at: datetime
    level: str | None
    birth_date: date | None
    below: int | None
    adult: bool


class AgeAssertions:
    """Checks assertions with the keys of the application's backend; in development, with a key of its own."""

    def __init__(self, config: AgeConfig, clock: Callable[[], float] = time.time) -> None:
        """Raises `AuthConfigurationError`."""
        self._config = config
        self._clock = clock
        if config.jwks:
            if not is_name(config.issuer):
                raise AuthConfigurationError("set AGE_ISSUER to the `iss` of your backend's age assertions")
            self._ring = KeyRing(config.jwks)
        elif config.embedded:
            self._ring = KeyRing(keys=ensure_key(config.home, AGE).public)
        else:
            self._ring = KeyRing()

    @property
    def enabled(self) -> bool:
        return bool(self._config.jwks) or self._config.embedded

    async def open(self) -> None:
        await self._ring.open()

    async def aclose(self) -> None:
        await self._ring.aclose()

    async def read(self, text: str, caller: Principal) -> AgeAssertion:
        """What the backend says of the caller. Raises one of service/compliance/errors.py."""
        if not self.enabled:
            raise AssuranceDisabledError("This service takes no age assertions: its operator has not set AGE_JWKS.")
        issuers = {self._config.issuer: TrustedIssuer(self._config.issuer, AGE_AUDIENCE, self._ring)}
        now = self._clock()
        try:
            _, claims = await verify(text, issuers, leeway=self._config.leeway, now=now)
        except TokenExpiredError as error:
            raise AssertionStaleError("The assertion has expired.") from error
        except AuthenticationError as error:
            raise AssertionInvalidError(f"The assertion is not good. {error.detail}") from error
        if claims["sub"] != caller.subject or claims.get("sub_iss", caller.issuer) != caller.issuer:
            raise AssertionNotYoursError("The assertion speaks of another user.")
        if claims["iat"] < now - FRESH_SECONDS:
            raise AssertionStaleError("The assertion is older than ten minutes; get a new one.")
        return _parse(claims, self._config.issuer)


def _parse(claims: dict[str, Any], issuer: str) -> AgeAssertion:
    bracket = claims.get("age_bracket")
    if bracket is not None and bracket not in BRACKETS:
        raise AssertionInvalidError(f"`age_bracket` is one of {', '.join(BRACKETS)}.")
    level, method, provider = claims.get("level"), claims.get("method"), claims.get("provider", issuer)
    if not isinstance(method, str) or not is_name(method) or not is_name(provider):
        raise AssertionInvalidError("The assertion lacks `method` or `provider`.")
    if level is not None and not is_name(level):
        raise AssertionInvalidError("`level` is not a name.")
    assertion = AgeAssertion(
        assertion_id=claims["jti"],
        provider=provider,
        method=method,
        issued_at=datetime.fromtimestamp(claims["iat"], UTC),
        expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        level=level,
        birth_date=_birth_date(claims.get("birth_date")),
        below=BRACKETS[bracket] if bracket is not None else None,
        adult=bracket == "18_plus",
    )
    if assertion.level is None and assertion.birth_date is None and bracket is None:
        raise AssertionInvalidError("The assertion says nothing: it needs `level`, `birth_date` or `age_bracket`.")
    return assertion


def _birth_date(value: Any) -> date | None:
    if value is None:
        return None
    try:
        born = date.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise AssertionInvalidError("`birth_date` is a date like 1990-12-31.") from error
    if not date(1900, 1, 1) <= born <= datetime.now(UTC).date():
        raise AssertionInvalidError("`birth_date` is not a birth date.")
    return born


def mint_assertion(
    config: AgeConfig,
    subject: str,
    level: str | None,
    *,
    method: str = "document",
    days: float = 30,
    now: float | None = None,
    **claims: Any,
) -> str:
    """An assertion of the development key, as an application's backend signs one. Raises `AuthConfigurationError`."""
    path = key_path(config.home, AGE)
    if not path.exists():
        raise AuthConfigurationError(f"there is no development key in {path.parent}: start `rapport up` once")
    issued = int(time.time() if now is None else now)
    content = {
        "iss": config.issuer,
        "aud": AGE_AUDIENCE,
        "sub": subject,
        "iat": issued,
        "exp": issued + int(timedelta(days=days).total_seconds()),
        "jti": secrets.token_urlsafe(16),
        "level": level,
        "method": method,
        "provider": "development",
        **claims,
    }
    told = {name: value for name, value in content.items() if value is not None}
    return read_signer(path, development=True).keys[0].sign(told)
