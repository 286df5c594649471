"""From what a caller sent to who is calling; verified once, then remembered until it expires."""

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

from memory.postgres import Database
from service.auth import api_keys
from service.auth.config import OWN_ISSUER, AuthConfig
from service.auth.errors import (
    AnonymousDisabledError,
    AuthConfigurationError,
    AuthenticationError,
    ScopeMissingError,
    TokenExpiredError,
    TokenMissingError,
    TokenRevokedError,
)
from service.auth.keys import KeyRing
from service.auth.local_keys import session_signer
from service.auth.metrics import AUTHENTICATIONS
from service.auth.revocations import Revocations
from service.auth.tokens import TrustedIssuer, is_name, verify
from service.errors import InvalidRequestError
from service.principal import OPERATOR, ROLES, USER, Principal, derive_user_id

NEVER = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class _Known:
    """A token found good."""

    principal: Principal
    issued_at: float
    valid_until: float
    recheck_at: float = float("inf")


class Authenticator:
    """Knows the issuers, their keys, and what was revoked. One per process."""

    def __init__(self, config: AuthConfig, database: Database, clock: Callable[[], float] = time.time) -> None:
        """Raises `AuthConfigurationError` when the keys are missing, weak or a developer's."""
        self._config = config
        self._database = database
        self._clock = clock
        self._signer = session_signer(config)
        self._known: dict[bytes, _Known] = {}
        self.revocations = Revocations(database, config.revocation_seconds)
        self._issuers: dict[str, TrustedIssuer] = {}
        if self._signer is not None:
            ring = KeyRing(keys=self._signer.public)
            self._issuers[OWN_ISSUER] = TrustedIssuer(OWN_ISSUER, OWN_ISSUER, ring)
        if config.jwks:
            if config.issuer == OWN_ISSUER or not is_name(config.issuer):
                raise AuthConfigurationError(
                    f"set AUTH_ISSUER to your identity provider's `iss`; {OWN_ISSUER!r} is our own"
                )
            ring = KeyRing(config.jwks, on_change=self._known.clear)
            self._issuers[config.issuer] = TrustedIssuer(config.issuer, config.audience, ring)

    async def open(self) -> None:
        for issuer in self._issuers.values():
            await issuer.ring.open()
        await self.revocations.open()

    async def aclose(self) -> None:
        for issuer in self._issuers.values():
            await issuer.ring.aclose()
        await self.revocations.aclose()

    async def authenticate(self, token: str | None, on_behalf_of: str | None = None) -> Principal:
        """Who sent this token.

        `on_behalf_of` names an end user, which only an API key with the scope "impersonate" may do.
        Raises an `AuthenticationError`, `ScopeMissingError` or `KeysUnavailableError`.
        """
        if not token:
            raise TokenMissingError("Send `Authorization: Bearer …`, or open a session with POST /v1/session.")
        name = hashlib.sha256(f"{on_behalf_of or ''}\0{token}".encode("utf-8", "surrogatepass")).digest()
        now = self._clock()
        known = self._known.get(name)
        if known is None or known.recheck_at <= now:
            known = await self._verify(token, on_behalf_of, now)
            self._remember(name, known)
        if known.valid_until <= now:
            del self._known[name]
            raise TokenExpiredError("The token has expired. Sign in again.")
        principal = known.principal
        if self.revocations.covers(principal.user_id, principal.token_id, known.issued_at):
            AUTHENTICATIONS.labels("token_revoked").inc()
            raise TokenRevokedError("The token was taken back. Sign in again.")
        return principal

    def mint_anonymous(self) -> str:
        """A token for somebody new whose name nobody knows."""
        if self._signer is None or not self._config.anonymous_sessions:
            raise AnonymousDisabledError("This service is for signed-in users: send your identity provider's token.")
        ttl = timedelta(days=self._config.anonymous_days)
        return self._signer.mint(f"anonymous-{uuid4()}", ttl, anonymous=True, now=self._clock())

    async def revoke(self, principal: Principal) -> None:
        """Take back the token that proved this principal, on every instance within seconds."""
        expires_at = principal.expires_at + timedelta(seconds=self._config.leeway)
        await self.revocations.revoke(principal.user_id, principal.token_id, expires_at)

    async def _verify(self, token: str, on_behalf_of: str | None, now: float) -> _Known:
        try:
            if token.startswith(api_keys.PREFIX):
                known = await self._verify_api_key(token, on_behalf_of, now)
            else:
                known = await self._verify_jwt(token, on_behalf_of, now)
        except (AuthenticationError, ScopeMissingError) as error:
            AUTHENTICATIONS.labels(error.code).inc()
            raise
        AUTHENTICATIONS.labels("ok").inc()
        return known

    async def _verify_jwt(self, token: str, on_behalf_of: str | None, now: float) -> _Known:
        if on_behalf_of is not None:
            raise ScopeMissingError("Only an API key may name its user in X-Rapport-User; a token is its user's.")
        issuer, claims = await verify(token, self._issuers, leeway=self._config.leeway, now=now)
        own = issuer.name == OWN_ISSUER
        anonymous = own and claims.get("anonymous") is True
        principal = Principal(
            user_id=derive_user_id(issuer.name, claims["sub"]),
            issuer=issuer.name,
            subject=claims["sub"],
            anonymous=anonymous,
            roles=frozenset({USER}) if anonymous else self._roles(claims.get("roles"), own=own),
            token_id=claims["jti"],
            expires_at=datetime.fromtimestamp(claims["exp"], UTC),
        )
        return _Known(principal, claims["iat"], claims["exp"] + self._config.leeway)

    def _roles(self, claimed: Any, *, own: bool) -> frozenset[str]:
        named = {role for role in claimed if isinstance(role, str)} if isinstance(claimed, list) else set()
        operator = OPERATOR if own else self._config.operator_role
        return ROLES if operator in named else frozenset({USER})

    async def _verify_api_key(self, token: str, on_behalf_of: str | None, now: float) -> _Known:
        key = await api_keys.read_api_key(self._database, token)
        if key.revoked_at is not None:
            raise TokenRevokedError("The API key was revoked.")
        expires_at = key.expires_at or NEVER
        if expires_at.timestamp() <= now:
            raise TokenExpiredError("The API key has expired.")
        if on_behalf_of is not None and api_keys.IMPERSONATE not in key.scopes:
            raise ScopeMissingError("This API key may not name a user: it lacks the scope `impersonate`.")
        if on_behalf_of is not None and not is_name(on_behalf_of):
            raise InvalidRequestError("X-Rapport-User must be 1 to 255 characters without control characters.")
        operator = on_behalf_of is None and api_keys.OPERATOR in key.scopes
        if on_behalf_of is None and not operator and api_keys.CHAT not in key.scopes:
            raise ScopeMissingError("This API key speaks only for users that X-Rapport-User names.")
        subject = on_behalf_of if on_behalf_of is not None else key.name
        # the key's own conversations must not be reachable under a user's name
        issuer = key.issuer if on_behalf_of is not None else f"{key.issuer} (server)"
        principal = Principal(
            user_id=derive_user_id(issuer, subject),
            issuer=issuer,
            subject=subject,
            anonymous=False,
            roles=ROLES if operator else frozenset({USER}),
            token_id=key.id,
            expires_at=expires_at,
            via_server=True,
        )
        # a user who signs out everywhere does not lock out the server that speaks for them
        return _Known(principal, float("inf"), expires_at.timestamp(), now + self._config.api_key_seconds)

    def _remember(self, name: bytes, known: _Known) -> None:
        if len(self._known) >= self._config.cached_tokens:
            # the oldest tenth goes at once: one at a time would make every later request pay
            for old in list(self._known)[: max(1, self._config.cached_tokens // 10)]:
                del self._known[old]
        self._known[name] = known
