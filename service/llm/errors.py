"""What can go wrong upstream.

BackendError
├── BackendUnavailableError   not reachable, 5xx, circuit open: another try or another backend may do
│   └── BackendBusyError      429 or its like; `retry_after` seconds
├── BackendTimeoutError       no first token, or silence between tokens, for too long
├── BackendInterruptedError   the stream ended without a finish reason, or with an error object
├── ModelNotFoundError        the server does not have that model
├── ContextOverflowError      the prompt does not fit; `limit` tokens when the server says
├── CannotContinueError       the reply's prefix can't be continued here: start it again
├── EmptyReplyError           a finished reply without any text (content filter, all reasoning)
└── BackendRefusedError       any other 4xx: asking again won't help
    └── KeyRefusedError       401, 403 or no credit left: another key or backend may do
"""


class BackendError(Exception):
    """The model server failed."""

    code = "backend_error"
    retryable = False

    def __init__(
        self, message: str, *, backend: str = "", retry_after: float | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message)
        self.backend = backend
        self.retry_after = retry_after
        self.limit = limit


class BackendUnavailableError(BackendError):
    code = "backend_unavailable"
    retryable = True


class BackendBusyError(BackendUnavailableError):
    code = "backend_busy"


class BackendTimeoutError(BackendError):
    code = "backend_timeout"
    retryable = True


class BackendInterruptedError(BackendError):
    code = "backend_interrupted"
    retryable = True


class ModelNotFoundError(BackendError):
    code = "model_not_found"


class ContextOverflowError(BackendError):
    code = "context_overflow"


class CannotContinueError(BackendError):
    code = "cannot_continue"


class EmptyReplyError(BackendError):
    code = "empty_reply"
    retryable = True


class BackendRefusedError(BackendError):
    code = "backend_refused"


class KeyRefusedError(BackendRefusedError):
    code = "backend_key_refused"
