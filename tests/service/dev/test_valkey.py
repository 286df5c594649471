"""The embedded Valkey: survives kills, one owner, its password never among the arguments."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis

from service.dev import children, valkey
from service.dev.errors import HomeInUseError, ServerMissingError, ServerStartError
from service.dev.valkey import EmbeddedValkey

ROOT = Path(__file__).parents[3]


def increase(url: str) -> int:
    with redis.Redis.from_url(url, decode_responses=True) as client:
        return int(client.incr("kept"))


def test_acknowledged_writes_survive_a_kill(server_home: Path) -> None:
    server = EmbeddedValkey(server_home / "valkey", settings={"appendfsync": "always"}).start()
    try:
        assert increase(server.url) == 1
        address = server.url
        server.kill()
        server.start()
        assert (server.url, increase(server.url)) == (address, 2)
        server.restart()
        assert increase(server.url) == 3
        with pytest.raises(HomeInUseError):
            EmbeddedValkey(server.home).start()
    finally:
        server.stop()


def test_it_gives_nothing_away(durable_valkey: EmbeddedValkey) -> None:
    assert durable_valkey.process is not None
    process = psutil.Process(durable_valkey.process.pid)
    assert process.uids().real != 0
    assert os.geteuid() != 0 or process.gids().real != 0
    password = (durable_valkey.home / "password.secret").read_text()
    assert password not in " ".join(process.cmdline())
    with redis.Redis(port=durable_valkey.port) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_an_orphan_is_taken_over(server_home: Path) -> None:
    program = (
        "import sys, os, signal; from pathlib import Path; from service.dev import children, valkey\n"
        "server = valkey.EmbeddedValkey(Path(sys.argv[1]))\n"
        "children.LAUNCHER = Path(sys.argv[2]); server.start(); print(server.process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    careless = server_home / "launch.py"
    careless.write_text((ROOT / "service/dev/launch.py").read_text().replace('sys.platform == "linux"', "False"))
    home = server_home / "valkey"
    first = subprocess.run(
        [sys.executable, "-c", program, str(home), str(careless)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    orphan = psutil.Process(int(first.stdout))
    second = EmbeddedValkey(home).start()
    try:
        assert not orphan.is_running() or orphan.status() == psutil.STATUS_ZOMBIE
        assert increase(second.url) == 1
    finally:
        second.stop()


def test_a_start_that_fails_says_why(server_home: Path) -> None:
    server = EmbeddedValkey(server_home / "valkey", settings={"no-such-setting": 1})
    with pytest.raises(ServerStartError, match="no-such-setting"):
        server.start()
    assert children.port_is_free(server.port)


def test_without_any_server_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(valkey, "_in_wheel", lambda: None)
    monkeypatch.setattr(valkey, "_on_path", lambda: None)
    with pytest.raises(ServerMissingError, match="REDIS_URL"):
        valkey.server_program(None)
