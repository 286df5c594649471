"""Follow a reply from anywhere: from this process if it is written here, else from the log, at last from PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Sequence
from uuid import UUID

from memory.errors import ConversationNotFoundError, LongTermMemoryError
from memory.postgres import Database
from memory.turns import StoredTurn, read_turn
from service.chat import events as ev
from service.chat.live import LiveReply
from service.compliance.duty import Notice, told_in_turn
from service.translation import translate
from sessions.errors import LiveStateUnavailableError, SessionsError
from sessions.replies import FIRST, Event, EventId, Log, ReplyLog, contiguous

POLL_SECONDS = 0.04
"""Between looks at the logs of all replies that are followed here: one round trip for all of them, on any cluster."""
QUIET_SECONDS = 1.0
"""After so long without an event a reader asks PostgreSQL whether the turn still runs, and who writes it."""


Waiting = tuple[Log, EventId | None, "asyncio.Future[list[Event]]", float]
"""What is followed, from where, who waits, and until when."""


class LogFollower:
    """Reads on in many logs with one round trip a tick. A log, not a channel: what was missed is still there.

    Logs on one server of a cluster tick together, so that a server that is away or slow holds up its own alone.
    """

    def __init__(self, replies: ReplyLog) -> None:
        self._replies = replies
        self._waiting: dict[Hashable, list[Waiting]] = {}
        self._ticking: dict[Hashable, asyncio.Task[None]] = {}

    async def next(self, log: Log, after: EventId | None) -> list[Event]:
        """The events after `after` as soon as there are any; an empty list after QUIET_SECONDS or while Redis is away."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Event]] = loop.create_future()
        shard = self._replies.shard(log)
        self._waiting.setdefault(shard, []).append((log, after, found, loop.time() + QUIET_SECONDS))
        if shard not in self._ticking:
            self._ticking[shard] = asyncio.create_task(self._tick(shard), name="follow-logs")
        return await found

    async def _tick(self, shard: Hashable) -> None:
        try:
            while waiting := self._waiting.pop(shard, None):
                waiting = [entry for entry in waiting if not entry[2].done()]
                if again := await self._look(waiting):
                    self._waiting.setdefault(shard, []).extend(again)
                await asyncio.sleep(POLL_SECONDS)
        finally:
            del self._ticking[shard]

    async def _look(self, waiting: Sequence[Waiting]) -> list[Waiting]:
        """Tell those for whom there is something, or who have waited long enough; gives the others."""
        answers = await self._replies.read_many([(log, after) for log, after, _, _ in waiting]) if waiting else []
        now = asyncio.get_running_loop().time()
        again = []
        for entry, answer in zip(waiting, answers, strict=True):
            _, _, found, deadline = entry
            if found.done():
                continue
            if isinstance(answer, Exception) and not isinstance(answer, LiveStateUnavailableError):
                found.set_exception(answer)
            elif (there := [] if isinstance(answer, Exception) else answer) or now >= deadline:
                found.set_result(there)
            else:
                again.append(entry)
        return again


class ReplyReader:
    """Makes one reader's stream: in order, without a gap, nothing twice."""

    def __init__(
        self,
        database: Database,
        replies: ReplyLog,
        running: dict[UUID, LiveReply],
        claim: Callable[[UUID], Awaitable[object]],
    ) -> None:
        self._database = database
        self._replies = replies
        self._running = running
        self._claim = claim
        self._follower = LogFollower(replies)

    async def events(self, log: Log, after: EventId | None) -> AsyncIterator[Sequence[Event]]:
        """Yield batches of events after `after` until the terminal one. Ownership was checked by the caller."""
        last = after
        while True:
            live = self._running.get(log.turn_id)
            if live is not None and not live.abandoned:
                async for batch in self._local(live, last):
                    last = batch[-1].id
                    yield batch
                    if batch[-1].type in ev.TERMINAL:
                        return
            batch = await self._remote(log, last)
            if batch:
                last = batch[-1].id
                yield batch
                if batch[-1].type in ev.TERMINAL:
                    return

    async def _local(self, live: LiveReply, last: EventId | None) -> AsyncIterator[Sequence[Event]]:
        seen = 0
        while True:
            fresh, seen = live.events[seen:], len(live.events)
            batch = [item for item in fresh if last is None or item.id > last]
            if batch:
                if not contiguous(last, batch):
                    batch = _rebased(live.events, last)
                last = batch[-1].id
                yield batch
            if live.ended or live.abandoned:
                return
            if seen == len(live.events):
                await live.changed()

    async def _remote(self, log: Log, last: EventId | None) -> Sequence[Event]:
        """The next batch from the log, or how the turn ended; empty when nothing happened for a while."""
        try:
            events = await self._follower.next(log, last)
            if events and contiguous(last, events):
                return events
            if events and (whole := await self._replies.read(log)):
                return _rebased(whole, last)
        except SessionsError:
            await asyncio.sleep(POLL_SECONDS)
        try:
            async with self._database.as_user(log.owner) as connection:
                turn = await read_turn(connection, log.owner, log.conversation_id, log.turn_id)
        except ConversationNotFoundError as error:
            # deleted or erased while it was being read: nobody will ever write its end
            problem = {**translate(error).problem(), "retryable": False, "retry_after": None}
            return [ev.event(FIRST if last is None else last.next(), ev.FAILED, problem)]
        except LongTermMemoryError:
            await asyncio.sleep(QUIET_SECONDS)
            return ()
        if turn.status == "running":
            if turn.orphaned:
                await self._claim(log.turn_id)
            return ()
        return await self._ending(log, turn, last)

    async def _ending(self, log: Log, turn: StoredTurn, last: EventId | None) -> Sequence[Event]:
        """The end as PostgreSQL knows it, for a reader whose log ends before it or is gone."""
        try:
            logged = await self._replies.read(log)
        except SessionsError:
            logged = []
        if (
            (rest := [item for item in logged if last is None or item.id > last])
            and contiguous(last, rest)
            and rest[-1].type in ev.TERMINAL
        ):
            return rest
        events: list[Event] = []
        if last is None:
            events.append(accepted_event(turn))
            last = FIRST
        if last == FIRST:
            for notice in await self._told(log):
                last = last.next()
                events.append(ev.event(last, ev.NOTICE, notice.data))
        following = EventId(max(last.epoch, turn.epoch), last.n + 1 if last.epoch >= turn.epoch else 0)
        if turn.reply is not None:
            if not (logged and logged[-1].id == last and ev.text_of(logged) == turn.reply):
                events.append(ev.event(following, ev.REBASED, ev.rebased_data(turn.reply, "stored", turn.reasoning)))
                following = following.next()
            events.append(ev.event(following, ev.COMPLETED, ev.completed_data(turn)))
        else:
            # what was said of it stays on every screen, and can be gone on with
            if turn.checkpoint and not (logged and logged[-1].id == last and ev.text_of(logged) == turn.checkpoint):
                events.append(ev.event(following, ev.REBASED, {"text": turn.checkpoint, "reason": "stored"}))
                following = following.next()
            events.append(ev.event(following, ev.FAILED, turn.failure or {"code": "turn_failed", "retryable": True}))
        return events

    async def _told(self, log: Log) -> list[Notice]:
        try:
            async with self._database.as_user(log.owner) as connection:
                return await told_in_turn(connection, log.owner, log.turn_id)
        except LongTermMemoryError:
            return []  # the reply matters more, and the notices stand beside the messages too


def _rebased(events: Sequence[Event], last: EventId | None) -> list[Event]:
    """All of `events` for a reader who can't be given them one by one: the text as one, and the notices after `last`."""
    terminal = [events[-1]] if events[-1].type in ev.TERMINAL else []
    told = events[: len(events) - len(terminal)]
    if not told:
        return list(terminal)
    notices = [item for item in told[:-1] if item.type == ev.NOTICE and (last is None or item.id > last)]
    return [*notices, ev.rebase(told, told[-1].id, "catching_up"), *terminal]


def accepted_event(turn: StoredTurn, *, duplicate: bool = False) -> Event:
    data = ev.accepted_data(
        turn.id,
        turn.conversation_id,
        turn.user_message_id,
        turn.user_seq,
        turn.user_created_at,
        resumable=True,
        duplicate=duplicate,
    )
    return ev.event(FIRST, ev.ACCEPTED, data)
