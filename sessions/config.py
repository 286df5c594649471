"""How the live state reaches Redis."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RedisConfig:
    url: str
    timeout: float = 0.5
    """Seconds after which a silent Redis counts as away: a turn goes on without it."""
    rest: float = 1.0
    """Seconds for which it is then not asked again, so that a hung Redis costs one turn its timeout, not every turn."""
