"""The mock model server and the streaming clients, in C: they saturate what Python would only tickle, and stay out of its core.

`mock_upstream.c` answers like an OpenAI-compatible server whose behaviour the model's name chooses; `sse_load.c` opens
any number of streams and checks and times every token, which carries its own number and the moment it was sent;
`chat_load.c` does so for people who think between their messages and come back to replies that they lost.
"""

import functools
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("mock_upstream", "sse_load", "chat_load")


class NoCompilerError(RuntimeError):
    """There is no C compiler here."""


@dataclass(frozen=True, slots=True)
class Programs:
    mock: Path
    client: Path
    people: Path


def compiler() -> list[str]:
    """The command of a C compiler: the system's, or the one that `pip install ziglang` brings."""
    found = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if found is not None:
        return [found]
    if importlib.util.find_spec("ziglang") is not None:
        return [sys.executable, "-m", "ziglang", "cc"]
    msg = "Load is made by small C programs: install a C compiler (Debian: apt-get install gcc libc6-dev), or pip install ziglang."
    raise NoCompilerError(msg)


@functools.cache
def build() -> Programs:
    """Compile the programs, once for each version of their sources. Raises `NoCompilerError`."""
    command = compiler()
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(HERE.glob("*.[ch]")))).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"rapport-native-{stamp}"
    folder.mkdir(exist_ok=True)
    for name in SOURCES:
        if not (folder / name).exists():
            unfinished = folder / f"{name}.{id(folder)}"
            subprocess.run([*command, "-O2", "-w", "-o", str(unfinished), str(HERE / f"{name}.c"), "-lm"], check=True)
            unfinished.replace(folder / name)
    return Programs(*(folder / name for name in SOURCES))
