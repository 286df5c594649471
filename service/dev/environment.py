"""How other commands find the parts of a running `rapport up`: NAME='value' lines in RAPPORT_HOME/environment."""

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import psutil

from service.settings import default_home

OWNER = "# of process "


def environment_file(home: Path) -> Path:
    return home.absolute() / "environment"


def write_environment(home: Path, values: Mapping[str, str]) -> None:
    """For as long as this process lives. Readable by its owner only: it holds passwords."""
    path = environment_file(home)
    lines = "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())
    unfinished = path.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    unfinished.touch(mode=0o600)
    unfinished.write_text(f"{OWNER}{os.getpid()} {psutil.Process().create_time()}\n{lines}")
    unfinished.replace(path)


def read_environment(home: Path) -> dict[str, str]:
    """What the `up` that runs on `home` told; empty when none runs, or it is somebody else's."""
    try:
        first, *lines = environment_file(home).read_text().splitlines()
    except (OSError, ValueError):
        return {}
    if not _is_alive(first):
        return {}
    pairs = (line.partition("=") for line in lines)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def _is_alive(first_line: str) -> bool:
    pid, _, started = first_line.removeprefix(OWNER).partition(" ")
    try:
        return psutil.Process(int(pid)).create_time() == float(started)
    except (psutil.NoSuchProcess, ValueError):
        return False


def load_environment() -> None:
    """Take from a running `up` what the environment doesn't say itself. To be called before Settings are read."""
    home = os.environ.get("RAPPORT_HOME")
    for name, value in read_environment(Path(home) if home else default_home()).items():
        os.environ.setdefault(name, value)
