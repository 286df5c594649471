"""`rapport up`, with stand-ins for our own processes and without a model: order, restarts, addresses, ends."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.dev import children
from service.dev.environment import read_environment

ROOT = Path(__file__).parents[3]
PROGRAM = (
    "import sys; from service.settings import Settings; from service.dev.supervisor import Supervisor, up\n"
    "settings = Settings()\n"
    "sys.exit(up(settings, supervisor=Supervisor(settings, module='tests.service.dev.standin')))"
)


class Up:
    """One `rapport up` as a child, and what it said."""

    def __init__(self, home: Path, **environment: str) -> None:
        self.home = home
        self.said = home.parent / f"said-{time.monotonic_ns()}.txt"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAPPORT_")}
        own = {"RAPPORT_HOME": str(home), "RAPPORT_PORT": "0", "RAPPORT_EMBEDDED_MODEL": "none", **environment}
        with self.said.open("wb") as file:
            argv = [sys.executable, "-c", PROGRAM]
            self.process = subprocess.Popen(argv, cwd=ROOT, env={**clean, **own}, stdout=file, stderr=file)

    def wait_for(self, text: str, seconds: float = 60) -> str:
        deadline = time.monotonic() + seconds
        while text not in self.said.read_text():
            assert time.monotonic() < deadline, f"never said {text!r}:\n{self.said.read_text()}"
            if self.process.poll() is not None and text not in self.said.read_text():
                pytest.fail(f"ended with {self.process.returncode}:\n{self.said.read_text()}")
            time.sleep(0.05)
        return self.said.read_text()

    def wait_for_log(self, name: str, text: str) -> None:
        deadline = time.monotonic() + 30
        while text not in (self.home / "logs" / f"{name}.log").read_text():
            assert time.monotonic() < deadline, f"{name} never said {text!r}"
            time.sleep(0.05)

    def environment(self) -> dict[str, str]:
        return read_environment(self.home)

    def ask(self) -> dict[str, Any]:
        """The API stand-in's pid and environment."""
        address = f"http://127.0.0.1:{self.environment()['RAPPORT_PORT']}/health/live"
        with urllib.request.urlopen(address, timeout=5) as answer:
            found: dict[str, Any] = json.loads(answer.read())
        return found

    def children(self) -> dict[str, psutil.Process]:
        names = ("bin/postgres", "valkey-server", "standin serve", "standin worker", "standin scheduler")
        running = psutil.Process(self.process.pid).children()
        return {name: child for child in running for name in names if name in " ".join(child.cmdline())}

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(30)


@pytest.fixture
def up(server_home: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(**environment: str) -> Up:
        started.append(Up(server_home / "home", **environment))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.terminate()
            one.process.wait(30)


def gone(processes: list[psutil.Process], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
            return True
        time.sleep(0.05)
    return False


def test_it_starts_all_says_where_and_stops_all_in_order(up: Callable[..., Up]) -> None:
    one = up()
    said = one.wait_for("Stream: ")
    parts = one.children()
    assert len(parts) == 5
    port = one.environment()["RAPPORT_PORT"]
    assert f"Page:   http://127.0.0.1:{port}/" in said
    assert f"curl -N http://127.0.0.1:{port}/v1/chat/completions" in said
    assert "token --user me)" in said
    told = one.ask()["environment"]
    assert told["DATABASE_URL"].startswith("postgresql://rapport:")
    assert told["REDIS_URL"].removesuffix("/0") == told["DRAMATIQ_BROKER_URL"].removesuffix("/1")
    assert json.loads(told["LLM_BACKENDS"]) == [{"name": "scripted", "kind": "scripted"}]
    assert told["RAPPORT_EMBEDDED"] == "1"
    assert stat.S_IMODE((one.home / "environment").stat().st_mode) == 0o600

    for name in ("worker", "scheduler"):
        one.wait_for_log(name, "is there")
    assert one.end(signal.SIGINT) == 0
    assert gone(list(parts.values()), 1)
    assert not (one.home / "environment").exists()
    for name in ("serve", "worker", "scheduler"):  # each was asked, and left by itself
        assert f"{name} leaves" in (one.home / "logs" / f"{name}.log").read_text()


def test_whatever_dies_is_started_again_at_its_address(up: Callable[..., Up]) -> None:
    one = up()
    one.wait_for("Stream: ")
    before, parts = one.environment(), one.children()
    for part in parts.values():
        part.kill()
    for title in ("PostgreSQL", "Valkey", "API", "Worker", "Scheduler"):
        one.wait_for(f"{title} ended (SIGKILL); starting it again in 0.5 s")
    deadline = time.monotonic() + 30
    while len([p for p in one.children().values() if p.status() != psutil.STATUS_ZOMBIE]) < 5:
        assert time.monotonic() < deadline, one.said.read_text()
        time.sleep(0.1)
    assert not {p.pid for p in one.children().values()} & {p.pid for p in parts.values()}
    assert one.environment() == before


def test_a_second_up_finds_the_data_of_a_killed_one(up: Callable[..., Up]) -> None:
    first = up()
    first.wait_for("Stream: ")
    parts, secrets = list(first.children().values()), first.environment()["DATABASE_URL"].split("@")[0]
    first.process.kill()
    first.process.wait()
    assert sys.platform != "linux" or gone(parts), "children outlived a killed `up`"
    assert first.environment() == {}  # what it told counts no more
    second = up()
    second.wait_for("Stream: ")
    assert second.environment()["DATABASE_URL"].split("@")[0] == secrets
    third = up()
    assert third.process.wait(30) == 1
    assert f"already running from {first.home} (process {second.process.pid})" in third.said.read_text()
    assert len(second.children()) == 5  # which the third left alone


def test_a_taken_port_is_said_and_the_next_one_used(up: Callable[..., Up], database_url: str, redis_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        one = up(RAPPORT_PORT=str(port), DATABASE_URL=database_url, REDIS_URL=redis_url)
        said = one.wait_for("Stream: ")
    chosen = int(one.environment()["RAPPORT_PORT"])
    assert f"Port {port} is taken: using {chosen}." in said
    assert chosen > port
    assert one.ask()["pid"] == one.children()["standin serve"].pid


def test_servers_of_ones_own_are_used(up: Callable[..., Up], database_url: str, redis_url: str) -> None:
    one = up(DATABASE_URL=database_url, REDIS_URL=redis_url, OPENAI_API_KEY="sk-test")
    said = one.wait_for("Stream: ")
    assert set(one.children()) == {"standin serve", "standin worker", "standin scheduler"}
    told = one.ask()["environment"]
    assert (told["DATABASE_URL"], told["REDIS_URL"]) == (database_url, redis_url)
    assert "LLM_BACKENDS" not in told
    for name in ("DATABASE_URL", "REDIS_URL", "Chat model"):
        assert name in said


def test_a_process_that_cannot_start_ends_the_start_with_its_words(
    up: Callable[..., Up], database_url: str, redis_url: str
) -> None:
    one = up(STANDIN_FAILS="serve", DATABASE_URL=database_url, REDIS_URL=redis_url)
    assert one.process.wait(60) == 1
    said = one.said.read_text()
    assert "The API ended at start with 3" in said
    assert "this stand-in was told to fail" in said
    assert "Stream: " not in said


def test_ports_that_are_taken_are_known() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        assert not children.port_is_free(taken.getsockname()[1])
    assert children.port_is_free(children.free_port())
