"""What the live state can refuse.

SessionsError
├── LiveStateUnavailableError   Redis is away; PostgreSQL still has everything
└── OwnerMismatchError          a value came back that is another user's: never shown, counted, and the connection dropped
"""


class SessionsError(Exception):
    """The live state could not do what was asked."""


class LiveStateUnavailableError(SessionsError):
    """Redis is away."""


class OwnerMismatchError(SessionsError):
    """A value read from Redis belongs to another user."""
