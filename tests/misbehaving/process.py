"""Starts the misbehaving server as a process of its own, for fixtures."""

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

CHECKOUT = Path(__file__).parents[2]


class Misbehaving:
    """A running misbehaving server and its control endpoint."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.url = f"{root}/v1"

    def state(self) -> dict[str, Any]:
        return self._call("/control/state")

    def reset(self) -> None:
        self._call("/control/reset", {})

    def override(self, quirk: str) -> None:
        """Answer every model with `quirk`; an empty name ends it."""
        self._call("/control/override", {"quirk": quirk})

    def expire(self) -> None:
        """Forget every background response."""
        self._call("/control/expire", {})

    def _call(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = json.dumps(body).encode() if body is not None else None
        with urlopen(Request(self.root + path, data=data), timeout=10) as answer:
            decoded: dict[str, Any] = json.load(answer)
            return decoded


@contextmanager
def running() -> Iterator[Misbehaving]:
    """Yield a misbehaving server on a free port; it ends with the block."""
    command = [sys.executable, "-m", "tests.misbehaving", "--port", "0"]
    with subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield Misbehaving(json.loads(process.stdout.readline())["ready"])
        finally:
            process.terminate()
