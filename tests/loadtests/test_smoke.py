"""Locust's users against the real service and the mock model, for some seconds, without a window."""

import csv
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from loadtests.native import NoCompilerError, build
from service.dev import children
from tests.fixtures.model import missing
from tests.fixtures.service import CHECKOUT, LiveService

SECONDS = 9


@pytest.fixture
def mock_url(tmp_path: Path) -> Iterator[str]:
    try:
        program = build().mock
    except NoCompilerError as error:
        missing(str(error))
        raise AssertionError from error
    port = children.free_port()
    process = children.spawn(children.Command((str(program), "--port", str(port)), tmp_path / "mock.log"))
    children.wait_until(
        lambda: children.answers(f"http://127.0.0.1:{port}/health"),
        process,
        tmp_path / "mock.log",
        name="The mock",
        timeout=10,
    )
    yield f"http://127.0.0.1:{port}/v1"
    children.end(process, ())


OPTIONS = f"-u 8 -r 8 -t {SECONDS}s --shape steady --think 0.1-0.4 --hostile 25 --breaks 1 --headless --only-summary"
MODEL = {"name": "mock", "model": "mock-ttft50-itl5-n80-st1", "continues": True, "max_concurrency": 100}
LEARNER = {"name": "learner", "kind": "scripted", "tier": "small"}


def locust(service: LiveService, folder: Path) -> tuple[int, dict[str, dict[str, str]], str]:
    """Run it: the exit code, the rows by name, and what it said."""
    command = [sys.executable, "-m", "locust", "-f", "loadtests/locustfile.py", *OPTIONS.split(), "--host", service.url]
    command += ["--signing-key", str(service.home / "keys" / "session.pem"), "--csv", str(folder / "locust")]
    own = {"RAPPORT_EMBEDDED": "true", "RAPPORT_HOME": str(service.home), "HOME": str(folder), "PATH": os.defpath}
    done = subprocess.run(command, cwd=CHECKOUT, env=own, capture_output=True, text=True, check=False, timeout=90)
    with (folder / "locust_stats.csv").open(newline="") as file:
        rows = {row["Name"]: row for row in csv.DictReader(file)}
    return done.returncode, rows, f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"


def test_people_of_all_kinds_are_served_and_the_hostile_ones_refused(
    service_factory: Callable[..., LiveService], mock_url: str, tmp_path: Path
) -> None:
    service = service_factory(LLM_BACKENDS=json.dumps([{**MODEL, "url": mock_url}, LEARNER]))
    service.start()
    code, rows, told = locust(service, tmp_path)
    assert code == 0, told
    assert rows["Aggregated"]["Failure Count"] == "0", told
    counts = {name: int(row["Request Count"]) for name, row in rows.items()}
    assert counts["whole reply"] >= 5, told
    assert counts["gap between tokens"] > counts["first token"] >= counts["whole reply"], told
    assert counts["come back"] >= 1, told
    assert sum(count for name, count in counts.items() if name.startswith("hostile")) >= 3, told
