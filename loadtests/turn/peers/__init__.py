"""Programs of others, installed from the package index into environments of their own."""

import fcntl
import subprocess
import sys
import venv
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).parents[3]
HOME = CHECKOUT / ".rapport" / "peers"
INSTALL_SECONDS = 900


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    packages: tuple[str, ...]

    @property
    def home(self) -> Path:
        return HOME / self.name

    def program(self, name: str) -> str:
        return str(self.home / "bin" / name)


LITELLM = Peer("litellm-1.106.2", ("litellm[proxy]==1.106.2",))
LANGGRAPH = Peer(
    "langgraph-1.2.22",
    (
        "langgraph==1.2.22",
        "langgraph-checkpoint-postgres==3.2.0",
        "langchain-openai==1.7.3",
        "psycopg[binary,pool]",
        "fastapi",
        "sse-starlette",
        "httpx",
        "orjson",
        "uvicorn",
        "uvloop",
        "httptools",
    ),
)


class PeerMissingError(RuntimeError):
    """The package index does not give it."""


def install(peer: Peer) -> None:
    """Install once for this checkout. Raises `PeerMissingError`."""
    HOME.mkdir(parents=True, exist_ok=True)
    with (HOME / f"{peer.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (peer.home / "installed").exists():
            return
        venv.create(peer.home, with_pip=False, clear=True)
        pip = [sys.executable, "-m", "pip", "--python", str(peer.home / "bin" / "python"), "install", "-q"]
        options = ["--no-compile", "--disable-pip-version-check", "--only-binary", ":all:"]
        result = subprocess.run(
            [*pip, *options, *peer.packages], timeout=INSTALL_SECONDS, check=False, capture_output=True, text=True
        )
        if result.returncode:
            raise PeerMissingError(f"{peer.name}: {result.stderr[-400:]}")
        (peer.home / "installed").touch()
