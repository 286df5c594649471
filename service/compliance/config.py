"""What age assurance needs to know; filled from the settings."""

from dataclasses import dataclass
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
