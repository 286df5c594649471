"""What the load's users are told: options of Locust's command line, and how they sign in."""

import itertools
import secrets
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from service.auth.config import AuthConfig
from service.auth.errors import AuthConfigurationError
from service.auth.local_keys import mint
from service.settings import Settings

SHAPES = ("none", "steady", "ramp", "spike", "soak")
TOKEN_HOURS = 12


def add_options(parser: Any) -> None:
    """The options that any deployment may need; each has an environment variable, as Locust's own have."""
    group = parser.add_argument_group("Rapport")
    add = group.add_argument
    add("--tokens", env_var="RAPPORT_TOKENS", default="", help="File with one bearer token a line; each is one user")
    add(
        "--signing-key",
        env_var="RAPPORT_SESSION_KEY_FILE",
        default="",
        help="PEM of the service's own session key: tokens for any number of users are made with it",
    )
    add(
        "--anonymous",
        action="store_true",
        help="Everybody begins an anonymous session, as the page does (the service limits them for each address)",
    )
    add("--think", env_var="RAPPORT_THINK", default="5-15", help="Seconds between a reply's end and the next message")
    add(
        "--shape",
        choices=SHAPES,
        default="none",
        help="How the number of users moves; --users is its most, --run-time its length",
    )
    add("--hostile", type=int, default=2, help="Hostile ones among a hundred users")
    add("--breaks", type=float, default=0.1, help="Share of replies during which the connection breaks")


def think_seconds(options: Namespace) -> tuple[float, float]:
    least, _, most = str(options.think).partition("-")
    return float(least), float(most or least)


class SignIn:
    """Gives tokens by subject, or one after another; None when users have to begin anonymous sessions."""

    def __init__(self, options: Namespace) -> None:
        self._listed: itertools.cycle[str] | None = None
        self._mint: Callable[[str], str] | None = None
        if options.anonymous:
            return
        if options.tokens:
            lines = Path(options.tokens).read_text(encoding="utf-8").splitlines()
            self._listed = itertools.cycle([line.strip() for line in lines if line.strip()])
            return
        config = (
            _with_key(Path(options.signing_key)) if options.signing_key else Settings(RAPPORT_EMBEDDED=True).auth_config
        )
        hours = timedelta(hours=TOKEN_HOURS)
        try:
            mint(config, "probe", hours)
        except AuthConfigurationError:
            if options.signing_key:
                raise
            return  # no `rapport up` here either: anonymous sessions
        self._mint = lambda subject: mint(config, subject, hours)

    def token(self, subject: str = "") -> str | None:
        """For this subject where tokens can be made; of a stranger without one."""
        if self._listed is not None:
            return next(self._listed)
        return self._mint(subject or f"load-{secrets.token_hex(6)}") if self._mint is not None else None


def _with_key(path: Path) -> AuthConfig:
    chosen = Settings()
    return AuthConfig(home=chosen.home, embedded=chosen.embedded, session_key_file=path)
