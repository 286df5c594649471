"""A reply stream's connection: pings for the quiet, an end for those who are stuck or gone, and nothing left behind."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest
from starlette.types import Message

from service.chat import sse
from service.chat.events import PING
from service.chat.metrics import READERS
from service.chat.sse import EventStream
from sessions.replies import FIRST, Event

PATIENCE = 60


class Reader:
    """An ASGI server with one client."""

    def __init__(self) -> None:
        self.got: list[Message] = []
        self.gone = asyncio.Event()
        self.takes = asyncio.Event()
        self.takes.set()

    async def receive(self) -> Message:
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.takes.wait()
        self.got.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)


class Source:
    """Batches as they are put in; tells when nobody reads any more."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[Sequence[Event]] = asyncio.Queue()
        self.left = asyncio.Event()

    async def __aiter__(self) -> AsyncIterator[Sequence[Event]]:
        try:
            while batch := await self.batches.get():
                yield batch
        finally:
            self.left.set()


def delta(text: bytes) -> list[Event]:
    return [Event(FIRST, "reply.delta", text)]


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():  # noqa: ASYNC110  nothing tells when
            await asyncio.sleep(0.005)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "LOOK_SECONDS", 0.02)


def served(source: Source, reader: Reader) -> "asyncio.Task[None]":
    stream = EventStream(source.__aiter__(), lambda item: item.data, tail=b"end")
    answering: Awaitable[None] = stream({"type": "http"}, reader.receive, reader.send)
    return asyncio.ensure_future(answering)


async def test_a_whole_reply_is_written_in_order_and_the_count_of_readers_goes_back() -> None:
    before = READERS._value.get()
    source, reader = Source(), Reader()
    serving = served(source, reader)
    for text in (b"one ", b"two ", b""):
        await source.batches.put(delta(text))
    await source.batches.put(())
    async with asyncio.timeout(PATIENCE):
        await serving
    assert reader.body == b"one two end"
    assert [message["type"] for message in reader.got] == ["http.response.start", *["http.response.body"] * 3]
    assert [message.get("more_body") for message in reader.got[1:]] == [True, True, False]
    assert READERS._value.get() == before


@pytest.mark.usefixtures("quick")
async def test_a_quiet_reader_is_pinged_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.1)
    source, reader = Source(), Reader()
    serving = served(source, reader)
    await until(lambda: reader.body.count(PING) >= 2)
    await source.batches.put(delta(b"late"))
    await source.batches.put(())
    async with asyncio.timeout(PATIENCE):
        await serving
    assert reader.body.replace(PING, b"") == b"lateend"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("pinged", [False, True], ids=["in a write", "in a ping"])
async def test_a_reader_that_takes_nothing_is_left(monkeypatch: pytest.MonkeyPatch, *, pinged: bool) -> None:
    monkeypatch.setattr(sse, "PING_SECONDS", 0.1)
    monkeypatch.setattr(sse, "SEND_SECONDS", 0.3)
    source, reader = Source(), Reader()
    serving = served(source, reader)
    await until(lambda: bool(reader.got))
    reader.takes.clear()
    if not pinged:
        await source.batches.put(delta(b"never taken"))
    async with asyncio.timeout(PATIENCE):
        await serving
        await source.left.wait()
    assert b"never taken" not in reader.body


@pytest.mark.usefixtures("quick")
async def test_a_reader_who_leaves_ends_the_reading_and_nothing_else() -> None:
    source, reader, other = Source(), Reader(), Reader()
    others = Source()
    serving, staying = served(source, reader), served(others, other)
    await source.batches.put(delta(b"one"))
    await until(lambda: reader.body == b"one")
    reader.gone.set()
    async with asyncio.timeout(PATIENCE):
        await serving
        await source.left.wait()
    await others.batches.put(delta(b"two"))
    await others.batches.put(())
    async with asyncio.timeout(PATIENCE):
        await staying
    assert other.body == b"twoend"


async def test_a_server_that_cancels_the_answer_is_obeyed() -> None:
    source, reader = Source(), Reader()
    serving = served(source, reader)
    await until(lambda: bool(reader.got))
    serving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await serving
    assert source.left.is_set()


async def test_what_goes_wrong_in_the_source_is_raised() -> None:
    reader = Reader()

    async def broken() -> AsyncIterator[Sequence[Event]]:
        yield delta(b"one")
        raise KeyError("two")

    with pytest.raises(KeyError):
        await EventStream(broken(), lambda item: item.data)({"type": "http"}, reader.receive, reader.send)
    assert reader.body == b"one"
