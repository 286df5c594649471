"""What authentication needs to know; filled from the settings."""

from dataclasses import dataclass
from pathlib import Path

OWN_ISSUER = "rapport"
"""Signs anonymous sessions and `rapport token`; also the audience of those. No other key set may use this name."""


@dataclass(frozen=True, slots=True)
class AuthConfig:
    home: Path
    embedded: bool = False
    """True lets a developer's key pair in `home` sign tokens; anywhere else it is refused."""
    jwks: str = ""
    """Path or URL of the identity provider's key set."""
    issuer: str = OWN_ISSUER
    audience: str = OWN_ISSUER
    operator_role: str = "operator"
    """The entry in a token's `roles` that makes its bearer an operator."""
    session_key_file: Path | None = None
    """PEM file of the service's own Ed25519 keys: the first signs, all verify."""
    anonymous_sessions: bool = True
    anonymous_days: float = 30.0
    leeway: float = 30.0
    """Seconds by which other clocks may differ from ours."""
    cached_tokens: int = 20_000
    api_key_seconds: float = 15.0
    """For how long an API key that was found good isn't looked up again."""
    revocation_seconds: float = 3.0
    """How often each instance reads what was revoked through the others."""

    def __post_init__(self) -> None:
        if not 0 <= self.leeway <= 30:
            raise ValueError("a leeway beyond 30 s lets stale tokens in")
