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

from memory.errors import (
    AccountErasedError,
    AgeAssuranceRequiredError,
    ConversationNotFoundError,
    EmbedderBusyError,
    EmbedderUnavailableError,
    IdempotencyConflictError,
    KeyUnavailableError,
    LongTermMemoryError,
    MemoryNotFoundError,
    NotCorrectableError,
    NothingToContinueError,
    RouteLockedError,
    StoreUnavailableError,
    TooYoungError,
    TurnInProgressError,
)
from service.llm.errors import BackendError, BackendUnavailableError, UnknownNameError
from sessions.errors import SessionsError

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


def translate(error: Exception) -> RapportError:
    """Turn what a lower layer raised into what the caller reads. Unknown errors tell nothing of the inside."""
    if isinstance(error, RapportError):
        return error
    if isinstance(error, LongTermMemoryError):
        return _of_memory(error)
    if isinstance(error, SessionsError):
        return UnavailableError("The live state is away for a moment. Try again.", code="live_state_unavailable")
    if isinstance(error, BackendError):
        return of_backend(error)
    return RapportError(
        "An error of ours, and it has been logged. Try again; if it stays, tell the operator the request id."
    )


_PLAIN: dict[type[LongTermMemoryError], tuple[type[RapportError], str]] = {
    ConversationNotFoundError: (NotFoundError, "conversation_not_found"),
    MemoryNotFoundError: (NotFoundError, "memory_not_found"),
    NotCorrectableError: (ConflictError, "not_correctable"),
    NothingToContinueError: (ConflictError, "nothing_to_continue"),
    AccountErasedError: (ConflictError, "account_erased"),
    KeyUnavailableError: (UnavailableError, "key_unavailable"),
    EmbedderUnavailableError: (UnavailableError, "embeddings_unavailable"),
    EmbedderBusyError: (UnavailableError, "embeddings_unavailable"),
}


def _of_memory(error: LongTermMemoryError) -> RapportError:
    detail = str(error)
    if type(error) in _PLAIN:
        kind, code = _PLAIN[type(error)]
        return kind(detail, code=code)
    if isinstance(error, RouteLockedError):
        return ForbiddenError(detail, code="route_locked", reason=error.reason)
    if isinstance(error, AgeAssuranceRequiredError):
        return ForbiddenError(f"{detail} Send one to POST /v1/age-assurance first.", code="age_assurance_required")
    if isinstance(error, TooYoungError):
        return ForbiddenError("This is for people who are older.", code="below_minimum_age")
    if isinstance(error, TurnInProgressError):
        return ConflictError(
            f"{detail} Follow it at /v1/conversations/…/turns/{error.turn_id}/stream, stop it, or wait.",
            code="turn_in_progress",
            turn_id=str(error.turn_id),
            headers={"Retry-After": "2"},
        )
    if isinstance(error, IdempotencyConflictError):
        return ConflictError(f"{detail} Use a new one.", code="idempotency_conflict")
    if isinstance(error, StoreUnavailableError):
        return UnavailableError(
            "The database is away for a moment; nothing was written. Try again.", code="store_unavailable"
        )
    return RapportError("An error of ours, and it has been logged.")


class BackendFailureError(RapportError):
    status, code, title = 502, "backend_error", "The model server failed"


def of_backend(error: BackendError) -> RapportError:
    """What a user reads when the model server failed: no inner address, no text of another's."""
    if isinstance(error, UnknownNameError):
        return NotFoundError(error.told, code=error.code, retryable=False)
    if isinstance(error, BackendUnavailableError):
        retry_after = max(1, round(error.retry_after)) if error.retry_after else 5
        return UnavailableError(
            error.told,
            retry_after=retry_after,
            code=error.code,
            retryable=True,
        )
    return BackendFailureError(error.told, code=error.code, retryable=error.retryable)


def openai_shape(error: RapportError) -> dict[str, Any]:
    """The same error as OpenAI's clients expect it."""
    kind = {401: "authentication_error", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}.get(
        error.status, "invalid_request_error" if error.status < 500 else "server_error"
    )
    return {"error": {"message": error.detail, "type": kind, "param": error.extra.get("param"), "code": error.code}}
