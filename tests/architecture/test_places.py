"""CONTRIBUTING's "Where is …?" answers truly: statements and metrics stand where it says."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
TOOLS = (ROOT / "service/bench", ROOT / "service/dev")
"""They measure the tables and start the servers, and look at both from outside."""
OF_FEATURES = {"api_keys", "backend_spend", "notices", "notice_counts", "revocations", "schedule"}
TOUCHED = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(?:ONLY\s+)?([a-z_]+)")


def modules(*packages: str) -> Iterator[tuple[Path, ast.Module]]:
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if not any(path.is_relative_to(tool) for tool in TOOLS):
                yield path.relative_to(ROOT), ast.parse(path.read_text())


def texts(tree: ast.Module) -> Iterator[str]:
    """Every text, those with values in them whole."""
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield " ".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.value


def tables() -> set[str]:
    made = " ".join(path.read_text() for path in (ROOT / "migrations/versions").glob("*.py"))
    return set(re.findall(r"CREATE TABLE (?:IF NOT EXISTS )?([a-z_]+)", made))


def test_statements_on_memorys_tables_stand_in_memory() -> None:
    of_memory = tables() - OF_FEATURES
    assert {"conversations", "messages", "turns", "outbox"} <= of_memory
    assert tables() >= OF_FEATURES
    astray, seen = [], set()
    for path, tree in modules("service", "sessions"):
        for text in texts(tree):
            touched = set(TOUCHED.findall(text)) & tables()
            seen |= touched
            # a feature may join its own rows with memory's: one round trip instead of two
            if touched & of_memory and not touched & OF_FEATURES:
                astray.append(f"{path}: {sorted(touched)}")
    assert astray == []
    assert seen >= OF_FEATURES, "the statements of features are found"


def test_metrics_are_declared_in_a_packages_metrics() -> None:
    kinds = {"Counter", "Gauge", "Histogram", "Summary"}
    declaring = {
        str(path)
        for path, tree in modules("service", "memory", "sessions")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.module == "prometheus_client"
        and kinds & {alias.name for alias in node.names}
    }
    assert "memory/metrics.py" in declaring
    assert {path for path in declaring if not path.endswith("/metrics.py")} == set()
