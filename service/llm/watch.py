"""Applies a changed configuration while running: on SIGHUP, and when the file of LLM_BACKENDS changes."""

import asyncio
import signal
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from service.llm import metrics
from service.llm.config import BackendConfig, BackendConfigError

log = structlog.get_logger(__name__)

INTERVAL = 2.0
Reload = Callable[[Sequence[BackendConfig]], None]


async def follow_configuration(
    reload: Reload,
    load: Callable[[], Sequence[BackendConfig]],
    *,
    path: Path | None = None,
    interval: float = INTERVAL,
    hangup: bool | None = None,
) -> None:
    """Run until cancelled. `load` reads the configuration anew; a broken one is reported and the old one kept.

    `hangup` says whether to listen for SIGHUP; None does so in a process's main thread, the only one that may.
    """
    hangup = threading.current_thread() is threading.main_thread() if hangup is None else hangup
    wake = asyncio.Event()
    loop = asyncio.get_running_loop()
    if hangup:
        loop.add_signal_handler(signal.SIGHUP, wake.set)
    seen = _stamp(path)
    try:
        while True:
            try:
                async with asyncio.timeout(interval if path is not None else None):
                    await wake.wait()
            except TimeoutError:
                if (now := _stamp(path)) == seen:
                    continue
                seen = now
            wake.clear()
            apply(reload, load)
    finally:
        if hangup:
            loop.remove_signal_handler(signal.SIGHUP)


def apply(reload: Reload, load: Callable[[], Sequence[BackendConfig]]) -> bool:
    """Load and apply; False when the new configuration can't be used."""
    try:
        configs = load()
    except BackendConfigError as error:
        metrics.RELOADS.labels("refused").inc()
        log.warning("backends_not_reloaded", reason=str(error))
        return False
    reload(configs)
    log.info("backends_reloaded", backends=[config.name for config in configs])
    return True


def _stamp(path: Path | None) -> tuple[int, int]:
    """Return what changes when the file is written or replaced."""
    if path is None:
        return 0, 0
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_ino
