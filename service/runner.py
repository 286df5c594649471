"""Write replies in a process of their own: then a restart of the API interrupts no reply."""

import asyncio
import signal

import structlog

from service.runtime import open_runtime
from service.settings import Settings

log = structlog.get_logger(__name__)


def run_runner(settings: Settings) -> int:
    """Write what API processes with TURN_RUNNER=outside accept, and what dead writers left, until SIGTERM."""
    asyncio.run(_run(settings))
    return 0


async def _run(settings: Settings) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    async with open_runtime(settings, writes_replies=True) as runtime:
        log.info("runner_ready")
        await ended.wait()
        await runtime.chat.drain(settings.drain_seconds)
