"""The HTTP server of one instance, and how it goes down without cutting a reply."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Callable, Coroutine
from functools import partial

import structlog
import uvicorn
import uvloop

from service.app import create_app
from service.connections import ImpatientProtocol
from service.runtime import open_runtime
from service.settings import Settings

log = structlog.get_logger(__name__)

HANDLES = 16
"""Of each listening socket: uvloop takes one connection per handle and turn of the loop, so that 40 clients who come at
once to a busy loop wait 441 ms with one handle, and 50 ms with 16 (measured, docs/performance.md)."""
CLOSE_SECONDS = 3
"""After the drain: for readers whose reply another instance goes on with. They come back and resume."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM: take no more turns, let replies finish, hand the rest over, then close.

    uvicorn's own way is to wait for open streams without end and only then run the application's shutdown, which is
    too late to tell anybody. A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, drain: Callable[[], asyncio.Future[None]]) -> None:
        super().__init__(config)
        self._drain = drain

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sys.platform == "win32":
            return
        protocol = partial(
            ImpatientProtocol, config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )
        loop = asyncio.get_running_loop()
        for listener in [listener for server in self.servers for listener in server.sockets]:
            for _ in range(HANDLES - 1):
                again = socket.socket(fileno=os.dup(listener.fileno()))
                self.servers.append(await loop.create_server(protocol, sock=again, backlog=self.config.backlog))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.force_exit:
            draining = asyncio.ensure_future(self._drain())
            while not draining.done() and not self.force_exit:
                await asyncio.wait({draining}, timeout=0.1)
        await super().shutdown(sockets)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. 1 when the service could not start; raises what a wrong setting stands in the way
    with, before anything listens."""
    return 0 if _run(_serve(settings)) else 1


def _run(main: Coroutine[None, None, bool]) -> bool:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


async def _serve(settings: Settings) -> bool:
    # opened here and not in the application's lifespan, which would print a refusal's traceback beside its sentence
    async with open_runtime(settings) as runtime:
        config = uvicorn.Config(
            create_app(settings, runtime),
            host=settings.host,
            port=settings.port,
            http=ImpatientProtocol,
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            timeout_graceful_shutdown=CLOSE_SECONDS,
            timeout_keep_alive=75,
            # nginx and its like are named by the operator; a header of anybody else's is not believed
            proxy_headers=bool(settings.trusted_proxies),
            forwarded_allow_ips=list(settings.trusted_proxies) or None,
        )
        # uvicorn raises the signal again once it has shut down, which would make every orderly end look like a crash,
        # and cut short what is closed here after it
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        server = DrainingServer(config, lambda: asyncio.ensure_future(runtime.chat.drain(settings.drain_seconds)))
        await server.serve()
        return server.started
