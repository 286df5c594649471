"""What the service imports is what `pip install` brings, in versions that are written down."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
OURS = ("service", "memory", "sessions", "migrations")


def imported_by(folder: str, *, skip: str = "") -> dict[str, Path]:
    """Top-level modules from outside, and a file that imports each."""
    found: dict[str, Path] = {}
    for path in (ROOT / folder).rglob("*.py"):
        if skip and path.is_relative_to(ROOT / skip):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module and not node.level else []
            found.update({name.partition(".")[0]: path for name in names})
    return {name: path for name, path in found.items() if name not in sys.stdlib_module_names | set(OURS)}


def declared(*extras: str) -> set[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = list(project["dependencies"])
    for extra in extras:
        lines += project["optional-dependencies"][extra]
    return {normal(Requirement(line).name) for line in lines}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_import_is_a_declared_dependency() -> None:
    providers = metadata.packages_distributions()
    runtime = declared()
    for folder in OURS:
        for name, path in imported_by(folder, skip="service/dev").items():
            brought_by = {normal(distribution) for distribution in providers.get(name, [name])}
            assert brought_by & runtime, (
                f"{path.relative_to(ROOT)} imports {name}, which pyproject.toml doesn't ask for"
            )
    for name, path in imported_by("service/dev").items():
        brought_by = {normal(distribution) for distribution in providers.get(name, [name])}
        assert brought_by & declared("embedded"), f"{path.relative_to(ROOT)} imports {name}"


def test_every_pin_is_exact_and_every_requirement_is_pinned() -> None:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {}
    for requirement in (Requirement(line) for line in lines if line):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        pins[normal(requirement.name)] = requirement
    assert declared("embedded", "dev") <= set(pins)
