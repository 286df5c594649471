"""Parts that must keep running: how each is started, watched, started again, ended."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from service.dev import children

CODE = Path(__file__).parents[2]
FIRST_PAUSE_SECONDS = 0.5
LONGEST_PAUSE_SECONDS = 30.0
STEADY_SECONDS = 60.0
"""A part that ran this long is healthy: its next end starts the pauses from the shortest again."""


@dataclass(slots=True)
class Program:
    """A command of ours (`python -m service NAME`), as a child."""

    name: str
    log: Path
    env: Mapping[str, str]
    patience: float = 10.0
    """Seconds to end in after SIGTERM."""
    module: str = "service"
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)
    _asked: bool = field(default=False, init=False)

    def start(self) -> None:
        argv = (sys.executable, "-m", self.module, self.name)
        self.process = children.spawn(children.Command(argv, self.log, env={**os.environ, **self.env}, cwd=CODE))

    def ask_to_stop(self) -> None:
        """SIGTERM, once: a second one means hurry to most servers."""
        if self.process is not None and not self._asked and self.process.poll() is None:
            self._asked = True
            self.process.terminate()

    def stop(self) -> None:
        """Ask if nobody did yet, wait for `patience`, and then wait no longer."""
        self.ask_to_stop()
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(self.patience)
            children.end(self.process, ())
            self.process = None


@dataclass(slots=True)
class Watched:
    """One part, and what to do when it ends by itself."""

    name: str
    process: Callable[[], subprocess.Popen[bytes] | None]
    again: Callable[[], object]
    log: Path
    _started: float = field(default_factory=time.monotonic)
    _pause: float = FIRST_PAUSE_SECONDS
    _due: float | None = None

    def tend(self, say: Callable[[str], None], now: float) -> None:
        """Notice an end, and start the part again once its pause is over; pauses double up to half a minute."""
        if self._due is not None:
            if now >= self._due:
                self._due = None
                self._start_again(say, now)
            return
        process = self.process()
        if process is not None and process.poll() is None:
            return
        if now - self._started > STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        code = process.returncode if process is not None else None
        say(f"{self.name} ended ({_how(code)}); starting it again in {self._pause:g} s. Its log: {self.log}")
        self._wait(now)

    def _wait(self, now: float) -> None:
        self._due = now + self._pause
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SECONDS)

    def _start_again(self, say: Callable[[str], None], now: float) -> None:
        self._started = now
        try:
            self.again()
        except Exception as error:  # noqa: BLE001 (whatever it is, the other parts must go on and this one be tried again)
            say(f"{self.name} could not be started: {error}")
            self._wait(now)


def _how(code: int | None) -> str:
    if code is None:
        return "it never ran"
    if code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"
