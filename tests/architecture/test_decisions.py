"""Each decision names the check that enforces it, and what it names is there."""

import re
from pathlib import Path

import pytest

from tests.architecture.test_security_page import PROOF, ROOT, names_in

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))
FILE = re.compile(r"`(tests/[\w/]*(?:\.py)?)")


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_names_a_check_that_is_there(page: Path) -> None:
    check = page.read_text().partition("**Check.**")[2]
    assert "`" in check
    assert [file for file in FILE.findall(check) if not (ROOT / file).exists()] == []
    assert [f"{file}::{name}" for file, name in PROOF.findall(check) if name not in names_in(ROOT / file)] == []


def test_decisions_are_found() -> None:
    assert len(DECISIONS) > 30
