"""What age assurance and duty of care need to know; filled from the settings."""

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

AGE_AUDIENCE = "rapport/age"
"""Of age assertions. Another one than access tokens have, so that neither passes for the other."""
FRESH_SECONDS = 600.0
"""How old an assertion may be when it is handed in."""


@dataclass(frozen=True, slots=True)
class AgeConfig:
    home: Path
    embedded: bool = False
    jwks: str = ""
    """Path or URL of the keys of the application's backend."""
    issuer: str = "rapport"
    leeway: float = 30.0


@dataclass(frozen=True, slots=True)
class DutyConfig:
    """The defaults are the strictest of the laws in docs/compliance.md."""

    language: str = "en"
    disclosure_every: timedelta = timedelta(hours=3)
    minor_break_every: timedelta = timedelta(hours=1)
    sitting_ends_after: timedelta = timedelta(minutes=30)
    """Who has not written for so long has had a break."""
    referral_every: timedelta = timedelta(minutes=10)
    crisis_rules: Path | None = None
    """A directory of rules instead of those that come with the service."""
