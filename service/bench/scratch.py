"""A database for one measurement: made, migrated, filled, thrown away."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service import migrate
from service.dev.errors import ServerMissingError
from service.dev.postgres import EmbeddedPostgres
from service.errors import RapportError


class NoScratchDatabaseError(RapportError):
    """Measuring needs a PostgreSQL of its own."""

    code, title = "bench_database", "There is no database to measure in"


SETTINGS = {
    # it is thrown away: nothing of it need survive a crash
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_wal_size": "4GB",
    "shared_buffers": "512MB",
    # a vacuum in the middle of a measurement would be measured too; whoever fills it vacuums
    "autovacuum": "off",
}


@contextmanager
def scratch_database() -> Iterator[str]:
    """The address of an empty, migrated database on a PostgreSQL of our own. It never touches a real one."""
    with tempfile.TemporaryDirectory(prefix="rapport-bench-") as home:
        Path(home).chmod(0o711)
        server = EmbeddedPostgres(Path(home) / "postgres", settings=SETTINGS)
        try:
            server.start()
        except ServerMissingError as error:
            raise NoScratchDatabaseError(str(error)) from error
        try:
            migrate.upgrade(server.dsn)
            yield server.dsn
        finally:
            server.stop(immediately=True)
