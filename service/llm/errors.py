"""What can go wrong upstream.

BackendError
├── BackendUnavailableError   not reachable, 5xx, circuit open: another try or another backend may do
│   └── BackendBusyError      429 or its like; `retry_after` seconds
│       ├── BudgetSpentError  the day's money is spent; it is new at midnight, UTC
│       └── QueueTimeoutError waited long enough in our own queue for it, whichever key it would have used
├── BackendTimeoutError       no first token, or silence between tokens, for too long
├── BackendInterruptedError   the stream ended without a finish reason, or with an error object
├── ModelNotFoundError        the server does not have the model it is configured with
│   └── UnknownNameError      the caller named a backend or model that the route does not have
├── ContextOverflowError      the prompt does not fit; `limit` tokens when the server says
├── CannotContinueError       the reply's prefix can't be continued here: start it again
├── EmptyReplyError           a finished reply without any text (content filter, all reasoning)
└── BackendRefusedError       any other 4xx: asking again won't help
    ├── FilteredError         what was said is not to the provider's liking: nothing is wrong with key or server
    └── KeyRefusedError       401 or 403: another key or backend may do
        └── NoCreditError     the account has no credit left
"""


class BackendError(Exception):
    """The model server failed."""

    code = "backend_error"
    retryable = False
    told = "The model server failed."
    """What a user may read: the error's own message can hold an upstream's words, which are for the operator."""

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
    told = "The service is busy. Your message is kept; try again."


class BackendBusyError(BackendUnavailableError):
    code = "backend_busy"


class BudgetSpentError(BackendBusyError):
    code = "budget_spent"
    told = "Today's budget for replies is spent. Your message is kept; replies go on at midnight, UTC."


class QueueTimeoutError(BackendBusyError):
    """The server did nothing wrong: it wasn't asked."""


class BackendTimeoutError(BackendError):
    code = "backend_timeout"
    retryable = True
    told = "The model took too long. Your message is kept; try again."


class BackendInterruptedError(BackendError):
    code = "backend_interrupted"
    retryable = True
    told = "The model broke off. Your message is kept; try again."


class ModelNotFoundError(BackendError):
    code = "backend_model_missing"
    told = "The model server doesn't have the model that this service asks it for. The operator can mend that: `rapport doctor` names the models it has."


class UnknownNameError(ModelNotFoundError):
    code = "model_not_found"
    told = "No such backend or model answers on this conversation's route. Leave it out, or name another."


class ContextOverflowError(BackendError):
    code = "context_overflow"
    told = "The message is too long for this model, even without what was said before."


class CannotContinueError(BackendError):
    code = "cannot_continue"
    told = "This model can't continue a reply; ask for a new one."


class EmptyReplyError(BackendError):
    code = "empty_reply"
    retryable = True
    told = "The model gave no answer. Try again, or put it differently."

    def __init__(self, message: str, *, backend: str = "", finish_reason: str | None = None) -> None:
        super().__init__(message, backend=backend)
        self.finish_reason = finish_reason


class BackendRefusedError(BackendError):
    code = "backend_refused"
    told = (
        "The model server refused the request. Your message is kept. The operator finds out why with `rapport doctor`."
    )


class FilteredError(BackendRefusedError):
    code = "content_filtered"
    told = "The model's provider doesn't answer this. Your message is kept; put it differently."


class KeyRefusedError(BackendRefusedError):
    code = "backend_key_refused"
    told = "The model server doesn't accept this service's key. Your message is kept. The operator has to renew the key; `rapport doctor` tells which."


class NoCreditError(KeyRefusedError):
    code = "backend_no_credit"
    told = "This service's account with the model provider has no credit left. Your message is kept. The operator has to top it up."
