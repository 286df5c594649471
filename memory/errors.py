"""What memory can refuse.

LongTermMemoryError
├── ReasonerUnavailableError      no model can answer now; the work is tried again later
├── ReasonerRefusedError          the models won't answer this text; the work counts as tried
├── EmbedderUnavailableError      no model makes vectors now; texts are found by their words meanwhile
│   └── EmbedderBusyError         too many ask for vectors now
├── StoreUnavailableError         PostgreSQL is away or restarting
├── HalfDoneError                 a statement did part of what it does: a bug, and the transaction is rolled back
├── KeyUnavailableError           the master key that a user's texts are sealed under isn't here
├── AccountErasedError            moments ago; it can begin anew in a minute
├── MemoryNotFoundError           absent, or another user's
├── NotCorrectableError           what was said can't be changed, and history can't either
└── TurnRefusedError              the accept statement let nobody through
    ├── ConversationNotFoundError (also somebody else's: the two can't be told apart)
    ├── RouteLockedError
    ├── AgeAssuranceRequiredError
    ├── TooYoungError
    ├── TurnInProgressError
    ├── NothingToContinueError
    └── IdempotencyConflictError
"""


class LongTermMemoryError(Exception):
    """Memory could not do what was asked."""


class ReasonerUnavailableError(LongTermMemoryError):
    """No model can answer now."""


class ReasonerRefusedError(LongTermMemoryError):
    """The models won't answer this text, now or later."""


class EmbedderUnavailableError(LongTermMemoryError):
    """No model makes vectors now."""


class EmbedderBusyError(EmbedderUnavailableError):
    """Too many ask for vectors now."""


class StoreUnavailableError(LongTermMemoryError):
    """PostgreSQL is away or restarting."""


class TransactionConflictError(StoreUnavailableError):
    """Two transactions stood in each other's way, and this one was undone: it may come again at once."""


class HalfDoneError(LongTermMemoryError):
    """A statement did part of what it does; its transaction must not be committed."""


class KeyUnavailableError(LongTermMemoryError):
    """A user's texts can't be opened."""


class AccountErasedError(LongTermMemoryError):
    """The account was erased moments ago; it can begin anew in a minute."""


class MemoryNotFoundError(LongTermMemoryError):
    """There is no such memory of this user."""


class NotCorrectableError(LongTermMemoryError):
    """This memory can't be changed in this way."""


class TurnRefusedError(LongTermMemoryError):
    """The turn was not accepted, and nothing of it was written."""


class ConversationNotFoundError(TurnRefusedError):
    """There is no such conversation of this user."""


class RouteLockedError(TurnRefusedError):
    """The conversation is locked."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"The conversation is locked: {reason}.")
        self.reason = reason


class AgeAssuranceRequiredError(TurnRefusedError):
    """The conversation's route asks for an age assurance that this user doesn't have."""


class TooYoungError(TurnRefusedError):
    """This user is known to be younger than the conversation's route allows."""


class TurnInProgressError(TurnRefusedError):
    """Another reply is being written in this conversation."""

    def __init__(self, turn_id: object) -> None:
        super().__init__("Another reply is being written in this conversation.")
        self.turn_id = turn_id


class NothingToContinueError(TurnRefusedError):
    """The reply is whole, or has not begun."""


class IdempotencyConflictError(TurnRefusedError):
    """This client_message_id was used for another message."""
