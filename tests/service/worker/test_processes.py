"""`rapport worker` and `rapport scheduler` as they are started in production."""

import asyncio
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.memory.learning_kit import Talk, opened

CHECKOUT = Path(__file__).parents[3]


@asynccontextmanager
async def process(name: str, home: Path, environment: dict[str, str]) -> AsyncIterator[None]:
    """Run a command of ours; at the end it has to leave by itself, and in peace, when told to."""
    log = home / f"{name}.log"
    with log.open("wb") as file:
        started = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "service",
            name,
            env={**os.environ, **environment, "RAPPORT_HOME": str(home)},
            cwd=CHECKOUT,
            stdout=file,
            stderr=file,
        )
    try:
        yield
        started.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(started.wait(), 30) == 0, log.read_text()
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()
        sys.stdout.write(log.read_text())


def _read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture
def environment(database_url: str, redis_url: str, broker_url: str) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "DRAMATIQ_BROKER_URL": broker_url,
        "RAPPORT_MASTER_KEY": "off",
        "LLM_BACKENDS": '[{"name": "scripted", "kind": "scripted"}]',
    }


async def test_what_is_said_is_learnt_by_the_worker_that_the_scheduler_wakes(
    environment: dict[str, str], database_url: str, tmp_path: Path, unused_tcp_port: int
) -> None:
    """Nobody sends a wake-up here: the sweep alone brings the work to the worker."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    async with opened(database_url) as database:
        talk = await Talk(database).open()
        await talk.say("I moved to Lisbon for work.", ("assistant", "How is Lisbon?"))
        counting = {**environment, "RAPPORT_METRICS_PORT": str(unused_tcp_port)}
        async with process("worker", tmp_path / "a", counting), process("scheduler", tmp_path / "b", environment):
            for _ in range(300):
                if await talk.facts():
                    break
                await asyncio.sleep(0.1)
            metrics = await asyncio.to_thread(_read, f"http://127.0.0.1:{unused_tcp_port}/metrics")
            assert 'rapport_learning_total{outcome="learnt"} 1.0' in metrics
        assert await talk.texts() == ["The user lives in Lisbon for work."]
        assert await talk.count("episodes") == 2
        async with database.system() as connection:
            assert await connection.fetchval("SELECT count(*) FROM schedule") == 3


async def test_a_worker_without_redis_says_so(environment: dict[str, str], tmp_path: Path) -> None:
    del environment["DRAMATIQ_BROKER_URL"], environment["REDIS_URL"]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", "worker"],
        env={**os.environ, **environment, "REDIS_ENABLED": "false", "RAPPORT_HOME": str(tmp_path)},
        cwd=CHECKOUT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert b"learns by itself" in done.stdout + done.stderr


async def test_a_worker_that_can_not_be_built_ends_instead_of_taking_work(
    environment: dict[str, str], database_url: str, broker_url: str, tmp_path: Path
) -> None:
    """It did take it once, and failed on every message, since Dramatiq logs what goes wrong at boot and boots."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "service", "worker"],
        env={**os.environ, **environment, "LLM_BACKENDS": "no-such-file.toml", "RAPPORT_HOME": str(tmp_path)},
        cwd=CHECKOUT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert b"no-such-file.toml" in done.stdout + done.stderr


@pytest.mark.parametrize("name", ["worker", "serve"])
async def test_a_route_policy_that_names_no_backend_of_ours_stops_the_start(
    environment: dict[str, str], tmp_path: Path, unused_tcp_port: int, name: str
) -> None:
    routes = tmp_path / "routes.toml"
    routes.write_text('[routes.general]\nbackends = ["scriptd"]\n')
    own = {"RAPPORT_ROUTES": str(routes), "RAPPORT_HOME": str(tmp_path), "RAPPORT_PORT": str(unused_tcp_port)}
    started = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "service",
        name,
        env={**os.environ, **environment, **own},
        cwd=CHECKOUT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        told, _ = await asyncio.wait_for(started.communicate(), 90)
    finally:
        if started.returncode is None:
            started.kill()
            await started.wait()
    assert started.returncode != 0
    assert "RAPPORT_ROUTES names the backends scriptd; configured are: scripted." in " ".join(told.decode().split())
