"""The mock model server and the streaming client, in C: they saturate what Python would only tickle, and stay out of its core.

`mock_upstream.c` answers like an OpenAI-compatible server whose behaviour the model's name chooses; `sse_load.c` opens
any number of streams and checks and times every token, which carries its own number and the moment it was sent.
"""

import functools
import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
SOURCES = ("mock_upstream", "sse_load")


class NoCompilerError(RuntimeError):
    """There is no C compiler here."""


@dataclass(frozen=True, slots=True)
class Programs:
    mock: Path
    client: Path


@functools.cache
def build() -> Programs:
    """Compile both programs, once for each version of their sources. Raises `NoCompilerError`."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        msg = "Load is made by two small C programs: install a C compiler (Debian: apt-get install gcc libc6-dev)."
        raise NoCompilerError(msg)
    stamp = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(HERE.glob("*.[ch]")))).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"rapport-native-{stamp}"
    folder.mkdir(exist_ok=True)
    for name in SOURCES:
        if not (folder / name).exists():
            unfinished = folder / f"{name}.{id(folder)}"
            command = [compiler, "-O2", "-w", "-o", str(unfinished), str(HERE / f"{name}.c"), "-lm"]
            subprocess.run(command, check=True)
            unfinished.replace(folder / name)
    return Programs(folder / SOURCES[0], folder / SOURCES[1])
