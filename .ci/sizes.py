"""Fail when a module passes 500 lines or a function 60; name the modules past 300."""

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = ("service", "memory", "sessions", "migrations", "tests", "loadtests")
MODULE_SOFT, MODULE_HARD, FUNCTION_HARD = 300, 500, 60


def faults_of(path: Path) -> tuple[list[str], list[str]]:
    """What must be mended, and what is worth a look."""
    text = path.read_text()
    name, lines = path.relative_to(ROOT), text.count("\n")
    wrong = [f"{name}: {lines} lines, {MODULE_HARD} is the limit"] if lines > MODULE_HARD else []
    large = [f"{name}: {lines} lines"] if MODULE_SOFT < lines <= MODULE_HARD else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_HARD:
                wrong.append(f"{name}:{node.lineno}: {node.name} has {length} lines, {FUNCTION_HARD} is the limit")
    return wrong, large


def main() -> int:
    found = [faults_of(path) for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    large = [line for _, lines in found for line in lines]
    wrong = [line for lines, _ in found for line in lines]
    if large:
        print("Large modules (fine up to 500 lines, better split by noun):", *large, sep="\n  ")
    if wrong:
        print("Too large:", *wrong, sep="\n  ", file=sys.stderr)
        return 1
    print(f"Sizes of {len(found)} modules are within limits.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
