"""A TCP proxy of our own between the service and a server, that a fault can make slow, deaf, forgetful or absent."""

import asyncio
import contextlib
from dataclasses import dataclass, field


@dataclass
class Hop:
    """One listening port in front of `target`; whoever connects goes through what is set here."""

    target: int
    port: int = 0
    delay: float = 0.0
    """Seconds by which everything is late, each way."""
    deaf: bool = False
    """Take what comes and pass nothing on: the connection looks alive and never answers."""
    refuse: bool = False
    ambush: bytes | None = None
    """The answer to the next request that holds these bytes is dropped, and its connection cut, once the server has
    done what was asked."""
    ambushed: int = 0
    _server: asyncio.Server | None = field(default=None, init=False)
    _pairs: set[asyncio.Task[None]] = field(default_factory=set, init=False)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set, init=False)
    _clients: set[asyncio.StreamWriter] = field(default_factory=set, init=False)

    async def open(self) -> "Hop":
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=256)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        self.cut()
        for task in list(self._pairs):
            task.cancel()
        await asyncio.gather(*self._pairs, return_exceptions=True)

    def cut(self) -> int:
        """Reset every connection; gives how many there were."""
        cut = len(self._writers) // 2
        for writer in list(self._writers):
            writer.transport.abort()
        return cut

    def say(self, words: bytes) -> None:
        """Tell every client something that the server has not said."""
        for writer in self._clients:
            writer.write(words)

    def heal(self) -> None:
        self.delay, self.deaf, self.refuse, self.ambush = 0.0, False, False, None

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        self._writers.add(writer)
        self._clients.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.refuse:
                return
            answers, upstream = await asyncio.open_connection("127.0.0.1", self.target)
            self._writers.add(upstream)
            caught = asyncio.Event()
            async with asyncio.TaskGroup() as both:
                both.create_task(self._ask(reader, upstream, caught))
                both.create_task(self._answer(answers, writer, caught))
        except (OSError, ExceptionGroup, asyncio.CancelledError):
            return
        finally:
            for side in (writer, upstream):
                if side is not None:
                    self._writers.discard(side)
                    with contextlib.suppress(RuntimeError):  # at the very end the loop is closed already
                        side.transport.abort()
            self._clients.discard(writer)
            self._pairs.discard(task)

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caught: asyncio.Event) -> None:
        while part := await reader.read(65536):
            if self.ambush is not None and self.ambush in part:
                self.ambush = None
                caught.set()
            await self._pass_on(part, writer)
        raise ConnectionResetError

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, caught: asyncio.Event) -> None:
        while part := await reader.read(65536):
            if caught.is_set():
                self.ambushed += 1
                break
            await self._pass_on(part, writer)
        raise ConnectionResetError

    async def _pass_on(self, part: bytes, writer: asyncio.StreamWriter) -> None:
        if self.delay:
            await asyncio.sleep(self.delay)
        while self.deaf:  # noqa: ASYNC110  a poll a hop is cheap, and survives being healed and struck again
            await asyncio.sleep(0.02)
        writer.write(part)
        await writer.drain()
