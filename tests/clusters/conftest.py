"""Servers of these tests' own: each topology is started once for the tests of a module, PostgreSQL once for all."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from service.dev.postgres import EmbeddedPostgres
from tests.clusters.postgreses import PgBouncer, Standby, needed
from tests.clusters.valkeys import ValkeyCluster, ValkeySentinels, opened
from tests.fixtures import ready_made


@pytest.fixture(scope="session")
def home() -> Iterator[Path]:
    """A directory that servers of root's can reach."""
    with TemporaryDirectory(prefix="rapport-clusters-") as path:
        Path(path).chmod(0o711)
        yield Path(path)


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[ValkeyCluster]:
    made = ValkeyCluster(home / "cluster")
    opened(made)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def sentinels(home: Path) -> Iterator[ValkeySentinels]:
    made = ValkeySentinels(home / "sentinels")
    opened(made)
    yield made
    made.stop()


@pytest.fixture(scope="session")
def primary(home: Path) -> Iterator[EmbeddedPostgres]:
    """A migrated PostgreSQL with every durability on: a replica's promises rest on it."""
    server = EmbeddedPostgres(home / "postgres", settings={"shared_buffers": "64MB"})
    ready_made.fill(server)
    server.start()
    yield server
    server.stop(immediately=True)


@pytest.fixture(scope="module")
def standby(primary: EmbeddedPostgres, home: Path) -> Iterator[Standby]:
    server = Standby(home / "standby", settings={"shared_buffers": "64MB"}, primary=primary)
    server.start()
    yield server
    server.stop(immediately=True)


@pytest.fixture(scope="module")
def bouncer(primary: EmbeddedPostgres, home: Path) -> Iterator[PgBouncer]:
    needed()
    server = PgBouncer(home / "pgbouncer", primary, pool=8).start()
    yield server
    server.kill()
