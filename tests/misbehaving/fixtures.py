"""The misbehaving server for tests: one process a worker, started when a test first asks."""

from collections.abc import Iterator

import pytest

from tests.misbehaving.process import Misbehaving, running


@pytest.fixture(scope="session")
def misbehaving_process() -> Iterator[Misbehaving]:
    with running() as server:
        yield server


@pytest.fixture
def misbehaving(misbehaving_process: Misbehaving) -> Misbehaving:
    """The server with its memory cleared."""
    misbehaving_process.reset()
    return misbehaving_process
