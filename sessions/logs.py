"""Reply logs in Redis streams, or in this process when there is only one."""

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from typing import Any
from uuid import UUID

import redis.asyncio
from redis.exceptions import NoScriptError, RedisError

from sessions.errors import LiveStateUnavailableError, OwnerMismatchError
from sessions.keys import REPLY_TTL_MS, reply_key
from sessions.link import RedisLink
from sessions.metrics import APPENDS, OWNER_MISMATCHES
from sessions.replies import ANYTHING, Appended, Event, EventId, Log

Pending = tuple[list[str | bytes], str, asyncio.Future[Appended]]

SCRIPT = (files("sessions") / "scripts" / "append.lua").read_text()


class RedisReplyLog:
    """Appends of all replies that are being written travel together: what gathers during one round trip is the next one."""

    durable = True

    def __init__(self, link: RedisLink) -> None:
        self._link = link
        self._script = link.client.register_script(SCRIPT)
        self._waiting: list[Pending] = []
        self._flushing: asyncio.Task[None] | None = None

    async def append(self, log: Log, expected: str, events: Sequence[Event]) -> Appended:
        arguments: list[str | bytes] = [expected, str(events[0].id.epoch), str(REPLY_TTL_MS), log.owner.bytes]
        for event in events:
            arguments += (str(event.id), event.type, event.data)
        done: asyncio.Future[Appended] = asyncio.get_running_loop().create_future()
        self._waiting.append((arguments, reply_key(log.conversation_id, log.turn_id), done))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name="reply-log-flush")
        answer = await done
        APPENDS.labels(answer.value).inc()
        return answer

    async def _flush(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                answers = await self._link.run(partial(self._send, batch))
            except LiveStateUnavailableError as error:
                answers = [error] * len(batch)
            for (_, _, done), answer in zip(batch, answers, strict=True):
                if done.cancelled():
                    continue
                if isinstance(answer, Exception):
                    done.set_exception(LiveStateUnavailableError(str(answer)))
                else:
                    done.set_result(Appended(answer.decode()))

    async def _send(self, batch: list[Pending], _client: object) -> list[bytes | Exception]:
        answers: list[bytes | Exception] = []
        for _attempt in range(2):
            pipeline = self._link.client.pipeline(transaction=False)
            for arguments, key, _ in batch:
                pipeline.evalsha(self._script.sha, 1, key, *arguments)
            answers = await pipeline.execute(raise_on_error=False)
            if not any(isinstance(answer, NoScriptError) for answer in answers):
                break
            # a restarted or flushed server has forgotten the script; an append can be repeated as it is
            await self._link.client.script_load(SCRIPT)
        return answers

    async def read(self, log: Log, after: EventId | None = None) -> list[Event]:
        start = f"({after}" if after else "-"
        rows: Any = await self._link.run(
            lambda client: client.xrange(reply_key(log.conversation_id, log.turn_id), start, "+")
        )
        return [_event(log, entry_id, fields) for entry_id, fields in rows]

    async def read_many(self, wanted: Sequence[tuple[Log, EventId | None]]) -> list[list[Event] | Exception]:
        """Read on in several logs with one round trip; each answer is a log's events or what went wrong with it."""

        async def read(client: redis.asyncio.Redis) -> list[object]:
            pipeline = client.pipeline(transaction=False)
            for log, after in wanted:
                pipeline.xrange(reply_key(log.conversation_id, log.turn_id), f"({after}" if after else "-", "+")
            found: list[object] = await pipeline.execute(raise_on_error=False)
            return found

        answers: list[list[Event] | Exception] = []
        for (log, _), rows in zip(wanted, await self._link.run(read), strict=True):
            if isinstance(rows, RedisError):
                answers.append(LiveStateUnavailableError(str(rows)))
                continue
            try:
                answers.append([_event(log, entry_id, fields) for entry_id, fields in rows])  # type: ignore[attr-defined]
            except OwnerMismatchError as error:
                answers.append(error)
        return answers

    async def drop(self, log: Log) -> None:
        await self._link.run(lambda client: client.delete(reply_key(log.conversation_id, log.turn_id)))


def _event(log: Log, entry_id: bytes, fields: dict[bytes, bytes]) -> Event:
    if fields[b"o"] != log.owner.bytes:
        OWNER_MISMATCHES.inc()
        raise OwnerMismatchError("A reply's log belongs to another user.")
    event_id = EventId.parse(entry_id.decode())
    if event_id is None:
        raise LiveStateUnavailableError("A reply's log holds an id of another kind.")
    return Event(event_id, fields[b"t"].decode(), fields[b"d"])


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

    async def drop(self, log: Log) -> None:
        self._logs.pop(log.turn_id, None)

    def _expire(self) -> None:
        now = self._clock()
        # logs are kept in the order of their first append, so that the oldest stand first
        for turn_id in [turn_id for turn_id, (until, _, _) in list(self._logs.items())[:8] if until < now]:
            del self._logs[turn_id]
