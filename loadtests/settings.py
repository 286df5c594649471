"""How the load's users sign in; read from the environment, as Locust's own settings are."""

import itertools
import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

from service.auth.local_keys import mint
from service.settings import Settings


def tokens() -> Iterator[str]:
    """Bearer tokens for one user after another.

    RAPPORT_TOKENS names a file with one token a line, for any deployment; without it the development key of a local
    `rapport up` signs them.
    """
    path = os.environ.get("RAPPORT_TOKENS")
    if path:
        found = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines() if line.strip()]
        return itertools.cycle(found)
    config = Settings(RAPPORT_EMBEDDED=True).auth_config
    return (mint(config, f"load-{number}", timedelta(hours=6)) for number in itertools.count())


def think_seconds() -> tuple[float, float]:
    """The least and the most time that a user thinks before the next message (RAPPORT_THINK=5-15)."""
    least, _, most = os.environ.get("RAPPORT_THINK", "5-15").partition("-")
    return float(least), float(most or least)
