"""Write constraints.txt anew: what pip would install today on every supported Python, with markers where they differ.

usage: python .ci/constraints.py PYTHON…      one interpreter for each supported version
Resolves into nothing: no package is installed. Run it to take in updates, then run all tests.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAD = "# Every package of `pip install -e '.[embedded,dev]'`, exactly. Made by .ci/constraints.py; don't edit.\n"


def resolve(python: str) -> tuple[str, dict[str, str]]:
    """The interpreter's version, and the version of each package it would get."""
    with tempfile.TemporaryDirectory() as folder:
        project = Path(folder) / "project"
        project.mkdir()
        shutil.copy(ROOT / "pyproject.toml", project)
        (project / "README.md").touch()
        for package in ("service", "memory", "sessions", "migrations"):
            (project / package).mkdir()
            (project / package / "__init__.py").touch()
        report = Path(folder) / "report.json"
        subprocess.run([python, "-m", "venv", f"{folder}/venv"], check=True)
        options = ("--quiet", "--dry-run", "--ignore-installed", "--only-binary", ":all:", "--report", str(report))
        pip = [f"{folder}/venv/bin/python", "-m", "pip", "install"]
        subprocess.run([*pip, *options, f"{project}[embedded,dev]"], check=True)
        found = json.loads(report.read_text())
    version = ".".join(found["environment"]["python_version"].split(".")[:2])
    pairs = (item["metadata"] for item in found["install"])
    return version, {item["name"].lower().replace("_", "-"): item["version"] for item in pairs}


def main(pythons: list[str]) -> None:
    wanted: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    versions = []
    for python in pythons:
        version, packages = resolve(python)
        versions.append(version)
        for name, pin in packages.items():
            if name != "rapport-companion":
                wanted[name][pin].append(version)
        print(f"Python {version}: {len(packages)} packages", file=sys.stderr)
    lines = []
    for name in sorted(wanted):
        for pin, where in sorted(wanted[name].items()):
            everywhere = len(where) == len(versions)
            marker = " or ".join(f'python_version == "{version}"' for version in where)
            lines.append(f"{name}=={pin}" + ("" if everywhere else f" ; {marker}"))
    (ROOT / "constraints.txt").write_text(HEAD + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
