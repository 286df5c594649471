"""Bring a database to the schema that this release needs.

Alembic and SQLAlchemy are loaded by whoever migrates: they are a sixth of what an instance would load at its start.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import service

if TYPE_CHECKING:
    from alembic.config import Config

SCRIPTS = Path(service.__file__).parents[1] / "migrations"
NAMES = re.compile(r'^(revision|down_revision) = "(\w+)"$', re.MULTILINE)


def _config(dsn: str) -> "Config":
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", SCRIPTS.as_posix().replace("%", "%%"))
    config.attributes["url"] = dsn.replace("postgresql://", "postgresql+asyncpg://", 1).replace(
        "postgres://", "postgresql+asyncpg://", 1
    )
    return config


def upgrade(dsn: str, revision: str = "head") -> None:
    """Apply all migrations up to `revision`. Call it outside a running event loop."""
    from alembic import command

    command.upgrade(_config(dsn), revision)


def downgrade(dsn: str, revision: str) -> None:
    from alembic import command

    command.downgrade(_config(dsn), revision)


def head() -> str:
    """The revision that this release's code expects: the one that no other follows."""
    names: dict[str, set[str]] = {"revision": set(), "down_revision": set()}
    for file in (SCRIPTS / "versions").glob("*.py"):
        for kind, revision in NAMES.findall(file.read_text(encoding="utf-8")):
            names[kind].add(revision)
    (latest,) = names["revision"] - names["down_revision"]
    return latest
