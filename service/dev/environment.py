"""What a running `rapport up` chose, for our other commands on the same machine."""

import os
import shlex
from pathlib import Path

from service.settings import default_home


def load_environment() -> None:
    """Take over the running parts' addresses and keys, unless the environment names others."""
    home = Path(os.environ.get("RAPPORT_HOME") or default_home())
    try:
        lines = (home.absolute() / "environment").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        name, _, value = line.partition("=")
        os.environ.setdefault(name, "".join(shlex.split(value)))
