"""What the writer of a reply has said, shown and logged.

Nothing is shown that isn't in the log (or, while Redis is away, in PostgreSQL's checkpoint), so that whoever takes
over knows all that a reader may have seen.
"""

import asyncio
from collections.abc import Callable
from typing import Any
from uuid import UUID

import orjson

from memory import leases
from memory.errors import StoreUnavailableError, TransactionConflictError
from memory.postgres import Database
from memory.turns import ClaimedTurn
from service.chat import events as ev
from service.chat.live import LiveReply
from service.chat.metrics import REBASES
from service.chat.thoughts import Thoughts
from sessions.errors import LiveStateUnavailableError
from sessions.replies import ANYTHING, EMPTY, FIRST, Appended, Event, EventId, ReplyLog, contiguous

DEGRADED_PAUSE = 0.25
"""Seconds between checkpoints while Redis is away: each is a statement that stands in for a log append."""
LOOK_SECONDS = 1.0
"""How long who takes over tries to read the log, which is fresher than PostgreSQL's copy, while Redis is away."""
STORE_PATIENCE = 60.0
"""Seconds to wait for PostgreSQL to come back before the turn is left to a take-over."""


class FencedError(Exception):
    """Another writer has this turn."""


class Logbook:
    """One epoch's part of a reply's log."""

    def __init__(
        self,
        turn: ClaimedTurn,
        live: LiveReply,
        replies: ReplyLog,
        database: Database,
        lease_seconds: float,
        *,
        keeps_reasoning: bool = False,
    ) -> None:
        self.text = ""
        """All of the reply that counts, shown or not."""
        self.shown = 0
        """How many characters of it readers have."""
        self.thoughts = Thoughts(kept=keeps_reasoning)
        self.logged = True
        """False while Redis is away."""
        self._turn = turn
        self._live = live
        self._replies = replies
        self._database = database
        self._lease_seconds = lease_seconds
        self._top = EMPTY
        self._next = EventId(turn.epoch, 0)
        self._backlog: list[Event] = []
        if turn.epoch == FIRST.epoch and live.events:
            # turn.accepted is shown as soon as it is committed: PostgreSQL has it, the log gets it with what comes next
            self._backlog = list(live.events)
            self._next = live.events[-1].id.next()

    @property
    def shown_text(self) -> str:
        return self.text[: self.shown]

    async def take_over(self, grade: Callable[[str], str]) -> bool:
        """Go on where a dead writer stopped, and fence it off. True when readers know already what was recalled.

        `grade` names, for the text so far, how the reply will go on.
        """
        while True:
            logged = await self._read_log()
            trusted = bool(logged) and contiguous(None, logged)
            text = ev.text_of(logged) if trusted else ""
            whole = trusted and len(text) >= len(self._turn.checkpoint)
            self.text = text if whole else self._turn.checkpoint
            self.shown = len(self.text)
            # PostgreSQL has no copy of an unfinished reply's reasoning: without the log it begins here
            self.thoughts.begin(ev.reasoning_of(logged) if whole else "")
            self._live.events[:] = logged if whole else []
            top = str(logged[-1].id) if logged else EMPTY
            if whole:
                data: dict[str, Any] = {"grade": grade(self.text), "kept_chars": self.shown, "after": top}
                first = ev.event(self._next, ev.TAKEN_OVER, data)
            else:
                first = ev.event(self._next, ev.REBASED, {"text": self.text, "reason": "taken_over"})
            answer = await self._append(top if whole else ANYTHING, [first])
            if answer is Appended.LOST:
                continue  # the old writer got one in between our look and our fence
            if answer is None:
                await self._checkpoint()
            self._publish([first])
            return any(item.type == ev.RECALLED for item in self._live.events)

    async def _read_log(self) -> list[Event]:
        deadline = asyncio.get_running_loop().time() + LOOK_SECONDS
        while True:
            try:
                return await self._replies.read(self._live.log)
            except LiveStateUnavailableError:
                if asyncio.get_running_loop().time() > deadline:
                    self.logged = False
                    return []
                await asyncio.sleep(DEGRADED_PAUSE)

    async def begin_behind(self, text: str) -> None:
        """Begin with what another reply had said: this one goes on with it."""
        self.text, self.shown = text, len(text)
        await self.emit(ev.REBASED, {"text": text, "reason": "continued"})

    async def taken_over_as(self, grade: str) -> None:
        """Say that the reply goes on otherwise than was said before."""
        await self.emit(ev.TAKEN_OVER, {"grade": grade, "kept_chars": self.shown, "after": self._top})

    def has_told(self, notice_id: str) -> bool:
        """Whether a notice stands in what readers have."""
        return any(
            item.type == ev.NOTICE and orjson.loads(item.data).get("id") == notice_id for item in self._live.events
        )

    async def restart(self, reason: str) -> None:
        """Tell readers that what they have doesn't count any more."""
        REBASES.labels(reason).inc()
        self.text, self.shown = "", 0
        if reason != "thinking":
            self.thoughts.settle(keep=False)
            self.thoughts.back()
        # else PostgreSQL's copy would hold more than the log, and pass for what the log had lost
        await self._checkpoint()
        await self._rebase(reason)

    async def _rebase(self, reason: str) -> None:
        self.thoughts.told()
        await self.emit(ev.REBASED, ev.rebased_data(self.shown_text, reason, self.thoughts.text))

    async def show_thoughts(self) -> None:
        """Log, then show, what was thought since the last time, where somebody wishes to know."""
        if self.thoughts.outdated:
            await self._rebase("restarted")
        elif fresh := self.thoughts.told():
            await self.emit(ev.REASONING, {"text": fresh})

    async def show(self) -> None:
        """Log, then show, what was said since the last time."""
        await self.show_thoughts()
        if self.shown < len(self.text):
            fresh = self.text[self.shown :]
            self.shown = len(self.text)
            await self.emit(ev.DELTA, {"text": fresh})

    async def emit(self, kind: str, data: dict[str, Any], *, last: bool = False) -> None:
        """Log one event, then show it. Raises `FencedError`, or `StoreUnavailableError` when it could be kept nowhere."""
        item = ev.event(self._next, kind, data)
        if self.logged:
            answer = await self._append(self._top, [*self._backlog, item])
            if answer is Appended.OK:
                self._backlog.clear()
                self._publish([item], last=last)
                return
        # the log was wiped or rolled back under us, or Redis was away: one event that carries all makes it whole again
        whole = self._whole(item)
        if await self._append(ANYTHING, whole) is Appended.OK:
            REBASES.labels("log_lost").inc()
            self._backlog.clear()
            self.logged = True
            self._publish(whole, last=last)
            return
        await self._checkpoint()
        self._publish([item], last=last)

    def _whole(self, item: Event) -> list[Event]:
        base = ev.event(item.id, ev.REBASED, ev.rebased_data(self.shown_text, "log_lost", self.thoughts.shown_text))
        whole = [base]
        # a notice keeps its own id, by which readers who have it know it again
        told = {orjson.loads(one.data)["id"]: one for one in self._live.events if one.type == ev.NOTICE}
        for one in (*told.values(), item):
            if one.type not in (ev.DELTA, ev.REASONING, ev.REBASED):
                whole.append(Event(whole[-1].id.next(), one.type, one.data))
        return whole

    async def _append(self, expected: str, events: list[Event]) -> Appended | None:
        """None: Redis is away. Raises `FencedError`."""
        try:
            answer = await self._replies.append(self._live.log, expected, events)
        except LiveStateUnavailableError:
            self.logged = False
            return None
        if answer is Appended.FENCED:
            raise FencedError
        return answer

    def _publish(self, events: list[Event], *, last: bool = False) -> None:
        self._top = str(events[-1].id)
        self._next = events[-1].id.next()
        self._live.publish(events, last=last)

    async def _checkpoint(self) -> None:
        """While Redis is away PostgreSQL keeps what is shown; without either, nothing is shown."""
        turn = self._turn
        held = [(turn.user_id, turn.turn_id, turn.epoch, self.shown_text)]

        async def statement(connection: Any) -> None:
            renewed = await leases.renew(connection, held, self._lease_seconds)
            # the last event of a turn that this epoch has ended is shown without a checkpoint
            if any(not row.written for row in renewed):
                raise TransactionConflictError("Somebody holds the turn's row.")
            if not renewed and not await leases.ended(connection, turn.user_id, turn.turn_id, turn.epoch):
                raise FencedError

        await patiently(self._database, None, statement)


async def patiently(database: Database, user_id: UUID | None, statement: Callable[[Any], Any]) -> Any:
    """Run a statement that may be repeated, as this user or over all, waiting for PostgreSQL to come back."""
    deadline = asyncio.get_running_loop().time() + STORE_PATIENCE
    while True:
        try:
            async with database.as_user(user_id) if user_id else database.system() as connection:
                return await statement(connection)
        except StoreUnavailableError:
            if asyncio.get_running_loop().time() > deadline:
                raise
            await asyncio.sleep(DEGRADED_PAUSE)
