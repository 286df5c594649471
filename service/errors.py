"""One shape for everything that goes wrong: RFC 9457 problem details with a stable `code`.

The same object is the body of a JSON answer, the data of a stream's `turn.failed`, and, in OpenAI's clothes, the
error of the OpenAI door.

RapportError (500 internal_error)
├── InvalidRequestError 422      what is wrong stands in `errors`
├── NotFoundError 404            absent, or another user's: the two can't be told apart
├── ConflictError 409
├── ForbiddenError 403           locked, or not for this user
├── TooLargeError 413
└── UnavailableError 503         with Retry-After
"""

from collections.abc import Mapping
from typing import Any

PROBLEM_TYPE = "urn:rapport:problem:"


class RapportError(Exception):
    """Something went wrong that the caller should read about."""

    status = 500
    code = "internal_error"
    title = "Something went wrong here"

    def __init__(
        self, detail: str, *, headers: Mapping[str, str] | None = None, code: str | None = None, **extra: Any
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})
        self.extra = extra
        if code is not None:
            self.code = code

    def problem(self) -> dict[str, Any]:
        return {
            "type": PROBLEM_TYPE + self.code,
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            **self.extra,
        }


class InvalidRequestError(RapportError):
    status, code, title = 422, "invalid_request", "The request can't be understood"


class NotFoundError(RapportError):
    status, code, title = 404, "not_found", "There is no such thing"


class ConflictError(RapportError):
    status, code, title = 409, "conflict", "The request contradicts what is there"


class ForbiddenError(RapportError):
    status, code, title = 403, "forbidden", "This is not open to you"


class TooLargeError(RapportError):
    status, code, title = 413, "too_large", "That is too much at once"


class UnavailableError(RapportError):
    status, code, title = 503, "unavailable", "Not possible right now"

    def __init__(self, detail: str, *, retry_after: int = 2, **options: Any) -> None:
        super().__init__(detail, retry_after=retry_after, **options)
        self.headers.setdefault("Retry-After", str(retry_after))


def openai_shape(error: RapportError) -> dict[str, Any]:
    """The same error as OpenAI's clients expect it."""
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        error.status, "invalid_request_error" if error.status < 500 else "server_error"
    )
    return {"error": {"message": error.detail, "type": kind, "param": error.extra.get("param"), "code": error.code}}
