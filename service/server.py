"""The HTTP server of one instance, and how it goes down without losing a request or cutting a reply."""

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from dataclasses import dataclass

import structlog
import uvicorn
import uvloop
from uvicorn.server import ServerState

from service.app import create_app
from service.chat.engine import ChatEngine
from service.connections import ImpatientProtocol
from service.runtime import open_runtime
from service.settings import Settings

log = structlog.get_logger(__name__)

HANDLES = 16
"""Of each listening socket: uvloop takes one connection per handle and turn of the loop, so that 40 clients who come at
once to a busy loop wait 441 ms with one handle, and 50 ms with 16 (measured, docs/performance.md)."""
CLOSE_SECONDS = 3
"""After the drain: for readers whose reply another instance goes on with. They come back and resume."""
LOOK_SECONDS = 0.05
GARBAGE = 10_000, 20, 20
"""Objects between collections of each generation. With Python's own 700, 10, 10 they took 6 % of a busy process's time
(500 users: 0.8 of 12.7 s)."""
MARGIN_SECONDS = 1.0
"""Added to the time for which a proxy keeps a connection, so that it is the one who closes it."""


@dataclass(frozen=True, slots=True)
class Leave:
    """How long an instance takes to go."""

    notice: float
    """Seconds for which it is not ready and takes connections still, for balancers that ask."""
    proxy_idle: float
    """Seconds for which a proxy in front may keep an unused connection."""
    drain: float
    """Seconds for which replies may finish."""


class LeavingState(ServerState):
    """What all connections of a server share."""

    leaving = False
    """Each answer from here on says that it is its connection's last."""


class DrainingServer(uvicorn.Server):
    """On SIGTERM: not ready, then no new connections, then no kept ones; replies finish or are handed over.

    Whoever connects is served or refused, and nothing in between: a proxy takes what was refused to another instance.
    uvicorn's own way is to stop listening with connections in the queue, to close kept connections under proxies that
    are about to use them, and to wait for open streams without end. A second signal ends it at once.
    """

    def __init__(self, config: uvicorn.Config, chat: ChatEngine, leave: Leave) -> None:
        super().__init__(config)
        self.server_state = self.shared = LeavingState()
        self._chat = chat
        self._leave = leave
        self._doors: list[socket.socket] = []

    def _protocol(self) -> ImpatientProtocol:
        return ImpatientProtocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if sys.platform == "win32":
            return
        loop = asyncio.get_running_loop()
        for listener in [listener for server in self.servers for listener in server.sockets]:
            for _ in range(HANDLES - 1):
                again = socket.socket(fileno=os.dup(listener.fileno()))
                self.servers.append(await loop.create_server(self._protocol, sock=again, backlog=self.config.backlog))
            self._doors.append(socket.socket(fileno=os.dup(listener.fileno())))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.force_exit:
            await self._go()
        await super().shutdown(sockets)

    async def _go(self) -> None:
        self._chat.draining = self.shared.leaving = True
        now = asyncio.get_running_loop().time
        announced = now() + self._leave.notice
        while now() < announced and not self.force_exit:  # noqa: ASYNC110  uvicorn has no event for a second signal
            await asyncio.sleep(LOOK_SECONDS)
        await self._close_doors()
        deadline = now() + self._leave.drain
        while now() < deadline and not self.force_exit and (self._chat.writing or self._in_use(now())):  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        if not self.force_exit:
            await self._chat.drain(0)

    async def _close_doors(self) -> None:
        """Stop listening, and take whoever was let in by the kernel already: closing would reset them."""
        for server in self.servers:
            server.close()
        await asyncio.sleep(0.01)  # the handles close their files in the loop's next turns
        let_in: list[socket.socket] = []
        for door in self._doors:
            door.setblocking(False)
            while True:
                try:
                    let_in.append(door.accept()[0])
                except OSError:
                    break
            door.close()
        self._doors.clear()
        loop = asyncio.get_running_loop()
        for connection in let_in:
            await loop.connect_accepted_socket(self._protocol, connection)

    def _in_use(self, now: float) -> bool:
        """Whether an answer is under way, or somebody may still use a connection that was kept for them."""
        kept = now - self._leave.proxy_idle - MARGIN_SECONDS if self._leave.proxy_idle else now
        connections = [each for each in self.server_state.connections if isinstance(each, ImpatientProtocol)]
        return any(connection.unused_since is None or connection.unused_since > kept for connection in connections)


def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT. 1 when the service could not start; raises what a wrong setting stands in the way
    with, before anything listens."""
    return 0 if _run(_serve(settings)) else 1


def _run(main: Coroutine[None, None, bool]) -> bool:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def keep_what_is_loaded() -> None:
    """Collections look at requests' objects from here on, not at the 150,000 of the program itself: each full one stopped
    every stream for 150 ms."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GARBAGE)


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
        leave = Leave(settings.leave_notice_seconds, settings.proxy_idle_seconds, settings.drain_seconds)
        server = DrainingServer(config, runtime.chat, leave)
        keep_what_is_loaded()
        await server.serve()
        return server.started
