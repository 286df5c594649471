"""What a turn costs, roughly: a slip by a factor is seen here, a slip by a few per cent in `make bench-turn`."""

import subprocess
import sys

import pytest

from loadtests.native import NoCompilerError, build
from tests.fixtures.service import CHECKOUT

MOST = 10.0
"""Times the floor of the same run. On a quiet machine it is about one and a half."""


def test_a_turn_costs_no_multiple_of_its_parts() -> None:
    try:
        build()
    except NoCompilerError as error:
        pytest.skip(str(error))
    small = ["--peers", "", "--streams", "1", "--repeats", "1", "--turns", "25", "--patience", "0"]
    small += ["--memories", "150", "--users", "2", "--conversations", "15"]
    result = subprocess.run(
        [sys.executable, "-m", "loadtests.turn", *small],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-2000:]
    closing = result.stdout.splitlines()[-1]
    assert closing.startswith("over the floor "), result.stdout[-2000:]
    print(closing)
    assert 0 < float(closing.split()[-1]) < MOST, result.stdout[-2000:]
