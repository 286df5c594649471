"""What the layers below raise, as the caller reads it."""

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
from service.errors import ConflictError, ForbiddenError, NotFoundError, RapportError, UnavailableError
from service.llm.errors import BackendError, BackendUnavailableError, UnknownNameError
from sessions.errors import SessionsError


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
