"""Every quirk of the misbehaving server is met by a test and told in the documentation."""

import re
from pathlib import Path

import pytest

from tests.misbehaving import server
from tests.misbehaving.calls import QUIRKS

HERE = Path(__file__)
PLACES = (
    *HERE.parent.glob("test_*.py"),
    *(HERE.parents[2] / "journeys" / name for name in ("test_backends.py", "test_told_plainly.py")),
)
TESTS = "\n".join(path.read_text() for path in PLACES if path != HERE)
TABLE = (HERE.parents[3] / "docs" / "backends.md").read_text()


@pytest.mark.parametrize("name", sorted(QUIRKS))
def test_a_quirk_has_a_test_that_names_it_and_a_place_in_the_table(name: str) -> None:
    assert f'"{name}"' in TESTS or f'"{name}#' in TESTS
    assert f"`{name}`" in TABLE or name in {"fast", "slow", "429-once-silent"}
    assert QUIRKS[name].seen_in


def test_every_row_of_the_table_names_a_test_that_is_there() -> None:
    rows = [line for line in TABLE.partition("| quirk |")[2].splitlines() if line.startswith("| ")]
    assert len(rows) > 40
    for row in rows:
        named = re.findall(r"`(test_\w+)`", row.rsplit("|", 2)[1])
        assert named, row
        for name in named:
            assert f"def {name}(" in TESTS, name


def test_the_registry_is_whole() -> None:
    assert len(QUIRKS) > 70
    assert QUIRKS["jit-evict"].answer is server.jit_evict
