"""Who is calling, as far as a signature proves it."""

from dataclasses import dataclass
from datetime import datetime
from uuid import NAMESPACE_URL, UUID, uuid5

from memory.transcript import Owner

USER = "user"
OPERATOR = "operator"
ROLES = frozenset({USER, OPERATOR})


def derive_user_id(issuer: str, subject: str) -> UUID:
    """The id under which everything of this user is kept. NUL is refused in both parts, so no two pairs collide."""
    return uuid5(NAMESPACE_URL, f"{issuer}\0{subject}")


@dataclass(frozen=True, slots=True)
class Principal:
    user_id: UUID
    issuer: str
    subject: str
    anonymous: bool
    roles: frozenset[str]
    token_id: str
    expires_at: datetime
    via_server: bool = False
    """An API key speaks: its address is a server's, and stands for many users."""

    @property
    def is_operator(self) -> bool:
        return OPERATOR in self.roles

    @property
    def owner(self) -> Owner:
        return Owner(self.user_id, self.issuer, self.subject)
