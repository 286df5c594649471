"""Why a caller isn't let in.

RapportError
├── AuthenticationError 401
│   ├── TokenMissingError      token_missing       no token and no cookie
│   ├── TokenMalformedError    token_malformed     not a JWT or an API key of ours in form
│   ├── TokenExpiredError      token_expired       was good once
│   ├── TokenInvalidError      token_invalid       not signed by whom it names, or not for us
│   └── TokenRevokedError      token_revoked       taken back
├── OperatorOnlyError 403      operator_only
├── ScopeMissingError 403      scope_missing       the API key may not do this
├── CrossSiteError 403         cross_site_request  another site sent the cookie
├── AnonymousDisabledError 403 anonymous_disabled
└── KeysUnavailableError 503   keys_unavailable    the identity provider's keys can't be read now

AuthConfigurationError         the service refuses to start
"""

from typing import Any

from service.errors import ForbiddenError, RapportError, UnavailableError


class AuthenticationError(RapportError):
    status, code, title = 401, "token_invalid", "You are not signed in"

    def __init__(self, detail: str, **options: Any) -> None:
        super().__init__(detail, **options)
        # RFC 6750, section 3: the error code is told only to who sent a token
        challenge = "Bearer" if self.code == "token_missing" else 'Bearer error="invalid_token"'
        self.headers.setdefault("WWW-Authenticate", challenge)


class TokenMissingError(AuthenticationError):
    code = "token_missing"


class TokenMalformedError(AuthenticationError):
    code = "token_malformed"


class TokenExpiredError(AuthenticationError):
    code = "token_expired"


class TokenInvalidError(AuthenticationError):
    code = "token_invalid"


class TokenRevokedError(AuthenticationError):
    code = "token_revoked"


class OperatorOnlyError(ForbiddenError):
    code = "operator_only"


class ScopeMissingError(ForbiddenError):
    code = "scope_missing"


class CrossSiteError(ForbiddenError):
    code = "cross_site_request"


class AnonymousDisabledError(ForbiddenError):
    code = "anonymous_disabled"


class KeysUnavailableError(UnavailableError):
    code = "keys_unavailable"


class AuthConfigurationError(RapportError):
    """The service's keys are missing, weak, or a developer's: it must not start with them."""

    code = "start_refused"
