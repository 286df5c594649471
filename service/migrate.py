"""Bring a database to the schema that this release needs."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

import service

SCRIPTS = Path(service.__file__).parents[1] / "migrations"


def _config(dsn: str) -> Config:
    config = Config()
    config.set_main_option("script_location", SCRIPTS.as_posix().replace("%", "%%"))
    config.attributes["url"] = dsn.replace("postgresql://", "postgresql+asyncpg://", 1).replace(
        "postgres://", "postgresql+asyncpg://", 1
    )
    return config


def upgrade(dsn: str, revision: str = "head") -> None:
    """Apply all migrations up to `revision`. Call it outside a running event loop."""
    command.upgrade(_config(dsn), revision)


def downgrade(dsn: str, revision: str) -> None:
    command.downgrade(_config(dsn), revision)


def head() -> str:
    """The revision that this release's code expects."""
    revision = ScriptDirectory.from_config(_config("postgresql://")).get_current_head()
    return revision or ""
