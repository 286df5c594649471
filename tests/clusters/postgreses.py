"""A streaming standby of the embedded PostgreSQL, and a PgBouncer in front of one."""

import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from service.dev import children
from service.dev.accounts import Account, service_account
from service.dev.children import free_port
from service.dev.homes import OwnedDirectory
from service.dev.postgres import EmbeddedPostgres

SECRETS = ("superuser.secret", "role.secret")


@dataclass(slots=True)
class Standby(EmbeddedPostgres):
    """A copy of a running primary that follows its log: roles and passwords are the primary's."""

    primary: EmbeddedPostgres | None = None

    def _initialise(self) -> bool:
        if (self.data / "PG_VERSION").exists():
            return False
        assert self.primary is not None
        for name in SECRETS:
            shutil.copy2(self.primary.home / name, self.home / name)
        unfinished = self.home / "data.unfinished"
        argv = (
            "-d",
            f"host=127.0.0.1 port={self.primary.port} user=postgres",
            *("-D", str(unfinished), "-R", "-X", "stream", "-C", "-S", "standby", "-c", "fast"),
        )
        command = self._command("pg_basebackup", argv, self.home / "pg_basebackup.log", signal.SIGTERM)
        password = (self.home / "superuser.secret").read_text().strip()
        command = children.Command(
            command.argv,
            command.log,
            command.death_signal,
            command.account,
            {**(command.env or {}), "PGPASSWORD": password},
        )
        assert children.spawn(command).wait() == 0, children.tail(command.log)
        unfinished.rename(self.data)
        return True

    async def _prepare(self) -> None:
        """Nothing to make: it has what the primary has."""


def program() -> Path | None:
    found = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    return Path(found) if found else None


def needed() -> Path:
    """The program; a test that can't have it says so."""
    found = program()
    if found is None:
        pytest.skip("PgBouncer is not installed (.ci/run does: apt-get install pgbouncer)")
    return found


@dataclass
class PgBouncer:
    """In transaction mode, before one PostgreSQL; its clients have the service's role."""

    home: Path
    postgres: EmbeddedPostgres
    port: int = field(default_factory=free_port)
    pool: int = 20
    account: Account | None = field(default_factory=service_account)
    process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        return self.postgres.dsn.replace(f":{self.postgres.port}/", f":{self.port}/")

    def start(self) -> "PgBouncer":
        OwnedDirectory(self.home, self.account)
        password = self.postgres.dsn.split("//")[1].split("@")[0].partition(":")[2]
        users, conf = self.home / "users.txt", self.home / "pgbouncer.ini"
        users.write_text(f'"rapport" "{password}"\n')
        conf.write_text(
            f"[databases]\n* = host=127.0.0.1 port={self.postgres.port}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
            f"listen_port = {self.port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {users}\n"
            f"pool_mode = transaction\nmax_client_conn = 1000\ndefault_pool_size = {self.pool}\n"
            # its defaults wait 15 s before they look at a PostgreSQL that was away, and 120 s for a free connection
            "server_login_retry = 1\nquery_wait_timeout = 5\n"
        )
        for path in (users, conf):
            path.chmod(0o600)
            if self.account is not None:
                self.account.own(path)
        argv = (str(needed()), str(conf))
        command = children.Command(argv, self.home / "pgbouncer.log", signal.SIGTERM, self.account, env={})
        self.process = children.spawn(command)
        children.wait_until(self._listens, self.process, command.log, name="PgBouncer", timeout=20)
        return self

    def _listens(self) -> bool:
        import socket

        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def restart(self) -> None:
        """As an operator's package upgrade does it: everybody's connection is gone at once."""
        self.kill()
        deadline = time.monotonic() + 10
        while True:
            try:
                self.start()
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
            else:
                return
