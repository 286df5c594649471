"""Reply logs in Redis streams, or in this process when there is only one."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from importlib.resources import files
from uuid import UUID

from sessions.cipher import Cipher, Plain
from sessions.errors import LiveStateUnavailableError, OwnerMismatchError
from sessions.keys import REPLY_TTL_MS, reply_key
from sessions.link import RedisLink
from sessions.metrics import APPENDS, OWNER_MISMATCHES
from sessions.replies import ANYTHING, Appended, Event, EventId, Log
from sessions.servers import Call, Script

Pending = tuple[Call, asyncio.Future[Appended]]

APPENDED = {answer: APPENDS.labels(answer.value) for answer in Appended}
SCRIPT = (files("sessions") / "scripts" / "append.lua").read_text()


class RedisReplyLog:
    """Appends of all replies that are being written travel together: what gathers during one round trip is the next one.

    Together means to one server: on a cluster, replies wait for no other server than their own.
    """

    durable = True

    def __init__(self, link: RedisLink, cipher: Cipher | None = None) -> None:
        self._link = link
        self._cipher = cipher or Plain()
        self._script = Script(SCRIPT)
        self._waiting: dict[Hashable, list[Pending]] = {}
        self._flushing: dict[Hashable, asyncio.Task[None]] = {}

    async def append(self, log: Log, expected: str, events: Sequence[Event]) -> Appended:
        arguments: list[str | bytes] = [expected, str(events[0].id.epoch), str(REPLY_TTL_MS), log.owner.bytes]
        for event in events:
            event_id = str(event.id)
            arguments += (event_id, event.type, self._cipher.seal(log.owner, _about(log, event_id), event.data))
        done: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        key = reply_key(log.conversation_id, log.turn_id)
        shard = self._link.shard(key)
        self._waiting.setdefault(shard, []).append((self._script.call([key], arguments), done))
        if shard not in self._flushing:
            self._flushing[shard] = asyncio.create_task(self._flush(shard), name="reply-log-flush")
        answer = await done
        APPENDED[answer].inc()
        return answer

    async def _flush(self, shard: Hashable) -> None:
        try:
            while batch := self._waiting.pop(shard, None):
                for (_, done), answer in zip(batch, await self._link.ask([call for call, _ in batch]), strict=True):
                    if done.cancelled():
                        continue
                    if isinstance(answer, Exception):
                        done.set_exception(answer)
                    else:
                        done.set_result(Appended(answer.decode()))
        finally:
            del self._flushing[shard]

    async def read(self, log: Log, after: EventId | None = None) -> list[Event]:
        return [self._event(log, entry_id, fields) for entry_id, fields in await self._link.one(_range(log, after))]

    async def read_many(self, wanted: Sequence[tuple[Log, EventId | None]]) -> list[list[Event] | Exception]:
        """Read on in several logs with one round trip; each answer is a log's events or what went wrong with it."""
        answers: list[list[Event] | Exception] = []
        rows_of_all = await self._link.ask([_range(log, after) for log, after in wanted])
        for (log, _), rows in zip(wanted, rows_of_all, strict=True):
            if isinstance(rows, Exception):
                answers.append(rows)
                continue
            try:
                answers.append([self._event(log, entry_id, fields) for entry_id, fields in rows])
            except (OwnerMismatchError, LiveStateUnavailableError) as error:
                answers.append(error)
        return answers

    def _event(self, log: Log, entry_id: bytes, listed: list[bytes]) -> Event:
        fields = dict(zip(listed[::2], listed[1::2], strict=True))
        if fields[b"o"] != log.owner.bytes:
            OWNER_MISMATCHES.inc()
            raise OwnerMismatchError("A reply's log belongs to another user.")
        text = entry_id.decode()
        event_id = EventId.parse(text)
        if event_id is None:
            raise LiveStateUnavailableError("A reply's log holds an id of another kind.")
        try:
            data = self._cipher.open(log.owner, _about(log, text), fields[b"d"])
        except ValueError as error:
            raise LiveStateUnavailableError("A reply's log is sealed under another key.") from error
        return Event(event_id, fields[b"t"].decode(), data)

    def shard(self, log: Log) -> Hashable:
        return self._link.shard(reply_key(log.conversation_id, log.turn_id))

    async def drop(self, log: Log) -> None:
        key = reply_key(log.conversation_id, log.turn_id)
        await self._link.one(Call(key, ("DEL", key)))


def _range(log: Log, after: EventId | None) -> Call:
    key = reply_key(log.conversation_id, log.turn_id)
    return Call(key, ("XRANGE", key, f"({after}" if after else "-", "+"))


def _about(log: Log, event_id: str) -> bytes:
    return log.turn_id.bytes + event_id.encode()


class LocalReplyLog:
    """The same rules in this process's memory, for REDIS_ENABLED=false."""

    durable = False

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._logs: dict[UUID, tuple[float, UUID, list[Event]]] = {}
        self._clock = clock

    async def append(self, log: Log, expected: str, events: Sequence[Event]) -> Appended:
        self._expire()
        _, owner, kept = self._logs.get(log.turn_id, (0.0, log.owner, []))
        top = str(kept[-1].id) if kept else ""
        if top == str(events[-1].id):
            return Appended.OK
        if kept and kept[-1].id.epoch > events[0].id.epoch:
            return Appended.FENCED
        if expected not in (ANYTHING, top):
            return Appended.LOST
        kept.extend(events)
        self._logs[log.turn_id] = (self._clock() + REPLY_TTL_MS / 1000, owner, kept)
        return Appended.OK

    async def read(self, log: Log, after: EventId | None = None) -> list[Event]:
        self._expire()
        _, owner, kept = self._logs.get(log.turn_id, (0.0, log.owner, []))
        if owner != log.owner:
            OWNER_MISMATCHES.inc()
            raise OwnerMismatchError("A reply's log belongs to another user.")
        return [event for event in kept if after is None or event.id > after]

    async def read_many(self, wanted: Sequence[tuple[Log, EventId | None]]) -> list[list[Event] | Exception]:
        return [await self.read(log, after) for log, after in wanted]

    def shard(self, log: Log) -> Hashable:  # noqa: ARG002  all of them are here
        return None

    async def drop(self, log: Log) -> None:
        self._logs.pop(log.turn_id, None)

    def _expire(self) -> None:
        now = self._clock()
        # logs are kept in the order of their first append, so that the oldest stand first
        for turn_id in [turn_id for turn_id, (until, _, _) in list(self._logs.items())[:8] if until < now]:
            del self._logs[turn_id]
