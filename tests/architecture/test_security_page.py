"""docs/security.md and docs/compliance.md name tests as proof: each of them exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROOF = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def names_in(path: Path) -> set[str]:
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("page", ["security.md", "compliance.md"])
def test_every_proof_exists(page: str) -> None:
    proofs = PROOF.findall((ROOT / "docs" / page).read_text())
    assert len(proofs) >= 8
    missing = [f"{file}::{name}" for file, name in proofs if name not in names_in(ROOT / file)]
    assert missing == []


def test_every_threat_has_a_control_and_a_proof() -> None:
    lines = (ROOT / "docs" / "security.md").read_text().partition("## Threats")[2].splitlines()
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| \d+ \|", line)]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    assert len(rows) >= 17
    for number, threat, control, proof in rows:
        assert threat.strip(), number
        assert control.strip(), number
        assert PROOF.search(proof), number
