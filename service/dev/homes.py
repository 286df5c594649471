"""A directory that one process owns at a time: its lock, its secrets, the port it used last."""

import fcntl
import os
import secrets
from pathlib import Path
from typing import IO

from service.dev.accounts import Account
from service.dev.children import free_port, port_is_free
from service.dev.errors import HomeInUseError


class OwnedDirectory:
    """Made with mode 0700 for `account`; or, as a `passage` that it only walks through, 0711 if it isn't there yet.

    A passage that is there already may be anybody's home directory: its mode stays.
    """

    def __init__(self, path: Path, account: Account | None = None, *, passage: bool = False) -> None:
        self.path = path.absolute()
        self._account = account
        self._lock: IO[str] | None = None
        self._make(0o711 if passage and account is not None else 0o700, None if passage else account, passage=passage)

    def _make(self, mode: int, owner: Account | None, *, passage: bool) -> None:
        missing = [p for p in self.path.parents if not p.exists()]
        for parent in reversed(missing):
            parent.mkdir(mode=0o755, exist_ok=True)
        made = not self.path.exists()
        self.path.mkdir(exist_ok=True)
        if made or not passage:
            self.path.chmod(mode)
        if owner is not None:
            owner.own(self.path)

    def lock(self, occupied: str = "another process uses {path}") -> None:
        """Own the directory until `unlock` or our death; raises `HomeInUseError` with `occupied` as its message."""
        file = (self.path / ".lock").open("a+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            file.close()
            raise HomeInUseError(occupied.format(path=self.path, pid=holder)) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._lock = file

    def unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def secret(self, name: str, *, shared: bool = False) -> str:
        """A random value made at first use and kept; `shared`: the server's account may read the file too."""
        path = self.path / name
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
                file.write(secrets.token_urlsafe(24))
        except FileExistsError:
            pass  # made at an earlier start
        if shared and self._account is not None:
            self._account.own(path)
        return path.read_text().strip()

    def port(self, wanted: int = 0) -> int:
        """`wanted`, else the port used last if it is still free, else any free one."""
        memory = self.path / "port"
        if not wanted:
            last = int(memory.read_text()) if memory.exists() and memory.read_text().strip().isdigit() else 0
            wanted = last if last and port_is_free(last) else free_port()
        memory.write_text(str(wanted))
        return wanted
