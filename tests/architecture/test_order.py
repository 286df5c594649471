"""The files that are to begin first are there: one that was renamed would begin last, and the run end minutes later."""

from tests.fixtures.order import LONGEST
from tests.fixtures.service import CHECKOUT


def test_every_file_that_is_to_begin_early_exists() -> None:
    assert [name for name in LONGEST if not (CHECKOUT / name).is_file()] == []
    assert len(set(LONGEST)) == len(LONGEST)
