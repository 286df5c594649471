"""What `rapport up` says while it works: short lines with timings, a moving one where the terminal can show it."""

import contextlib
import shlex
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from service.dev.weights import Progress as Tell

QUIET_STEP_SECONDS = 10.0
"""Between lines of progress where there is no terminal to draw a bar on."""


class Speaker:
    """Lines on the standard output; `rich` leaves out colour and movement where it isn't a terminal."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        unicode = (self._console.encoding or "").lower().startswith("utf")
        self._done = "[green]✓[/]" if unicode else "ok"
        self._attention = "[yellow]![/]"

    def say(self, text: str) -> None:
        self._console.print(escape(text))

    def warn(self, text: str) -> None:
        self._console.print(f"{self._attention} {escape(text)}")

    @contextlib.contextmanager
    def step(self, doing: str, done: str) -> Iterator[None]:
        """Show `doing` while the block runs, then `done` and the seconds it took."""
        started = time.monotonic()
        if not self._console.is_terminal:
            self.say(f"  {doing} …")
        with self._console.status(escape(f"{doing} …")) if self._console.is_terminal else contextlib.nullcontext():
            yield
        self._console.print(f"{self._done} {escape(done)} [dim]{time.monotonic() - started:.1f} s[/]")

    @contextlib.contextmanager
    def bar(self, doing: str) -> Iterator[Tell]:
        """Yield a function that moves a progress bar: bytes done, bytes in all."""
        if not self._console.is_terminal:
            yield self._slow_lines(doing)
            return
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, TimeRemainingColumn(), console=self._console, transient=True) as progress:
            task = progress.add_task(escape(doing), total=None)
            yield lambda done, total: progress.update(task, completed=done, total=total)

    def _slow_lines(self, doing: str) -> Tell:
        last = time.monotonic()
        self.say(f"  {doing} …")

        def tell(done: int, total: int) -> None:
            nonlocal last
            if time.monotonic() - last > QUIET_STEP_SECONDS:
                last = time.monotonic()
                self.say(f"  {doing}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

        return tell


def rapport_command(home: Path | None) -> str:
    """How to call our command line from this folder; `home` when it isn't the default one."""
    program = Path(sys.executable).with_name("rapport")
    with contextlib.suppress(ValueError):
        program = program.relative_to(Path.cwd())
    prefix = f"RAPPORT_HOME={shlex.quote(str(home))} " if home is not None else ""
    return prefix + shlex.quote(str(program))


def curl_line(address: str, home: Path | None) -> str:
    """One line for a shell that streams a reply."""
    token = f"$({rapport_command(home)} token --user me)"
    body = '{"model":"rapport","stream":true,"messages":[{"role":"user","content":"Hello! Who are you?"}]}'
    return (
        f"curl -N {address}/v1/chat/completions "
        f"-H \"Authorization: Bearer {token}\" -H 'Content-Type: application/json' -d '{body}'"
    )
