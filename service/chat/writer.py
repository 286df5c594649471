"""The writer of one reply: from the first token to the commit, and from the middle when another writer died."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import asyncpg
import structlog
from uuid_utils.compat import uuid7

from memory import leases, quotas, turns
from memory.errors import StoreUnavailableError
from memory.postgres import Database
from memory.turns import ClaimedTurn, Committed, Reply
from service.chat import events as ev
from service.chat.going_on import Joint, plainly
from service.chat.leases import LeaseKeeper
from service.chat.live import LiveReply
from service.chat.logbook import DEGRADED_PAUSE, FencedError, Logbook, patiently
from service.chat.metrics import FIRST_TOKEN, TURNS, ZOMBIE_WRITES
from service.chat.prompt import Material, build_request
from service.chat.rhythm import Rhythm
from service.chat.thoughts import Kept, keeps
from service.chat.upstream import Upstream
from service.chat.wake import Wake
from service.errors import ForbiddenError, RapportError, UnavailableError
from service.llm.errors import BackendError, CannotContinueError
from service.llm.pool import Backends
from service.llm.ports import ChatRequest, Opened, Target, Usage
from service.translation import translate
from sessions.errors import OwnerMismatchError
from sessions.replies import ReplyLog

log = structlog.get_logger(__name__)

UPSTREAM_ATTEMPTS = 4
"""Openings of a backend's stream for one reply: read on, continue, begin again, and one that breaks off."""

TIMER_SECONDS = 0.01
"""Less than this is not waited for."""


class _HaltedError(Exception):
    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Tools:
    """What every writer of a process shares."""

    database: Database
    replies: ReplyLog
    backends: Backends
    leases: LeaseKeeper
    rhythm: Rhythm
    lease_seconds: float
    reply_tokens: int
    reasoning: Kept


class ReplyWriter:
    """Writes one turn's reply. `gather` brings what the prompt is made of; `on_commit` hears of the stored reply."""

    def __init__(
        self,
        turn: ClaimedTurn,
        live: LiveReply,
        tools: Tools,
        gather: Callable[[], Awaitable[Material]],
        on_commit: Callable[[ClaimedTurn, Material, Reply, Committed], Awaitable[None]],
    ) -> None:
        self.user_id: UUID = turn.user_id
        self.turn_id: UUID = turn.turn_id
        self.epoch: int = turn.epoch
        self._turn = turn
        self._live = live
        self._tools = tools
        self._gather = gather
        self._on_commit = on_commit
        self._book = Logbook(
            turn,
            live,
            tools.replies,
            tools.database,
            tools.lease_seconds,
            keeps_reasoning=keeps(tools.reasoning, turn.request.get("reasoning")),
        )
        self._checkpointed = 0
        self._upstream = Upstream(turn.upstream)
        self._goes_on = bool(turn.request.get("continues"))
        """It began with another reply's text, which no other beginning may replace if that can be helped."""
        self._joint: Joint | None = None
        self._halted: str | None = None
        self._retracting: asyncio.Event | None = None
        self._wake = Wake()
        self._opening: asyncio.Future[Opened] | None = None
        self._opened: Opened | None = None
        self._finish: tuple[str, Usage | None] = ("stop", None)
        self._reply_id = uuid7()
        self._began = time.monotonic()
        self._asked = 0.0
        self._place = self._place_told = 0

    # --- as the lease keeper sees it

    def checkpoint(self) -> str | None:
        # while Redis is away each event is checkpointed by itself: an older text must not follow it
        if self._book.shown == self._checkpointed or not self._book.logged:
            return None
        self._checkpointed = self._book.shown
        return self._book.shown_text

    def place(self) -> dict[str, Any] | None:
        return self._upstream.record(self._book.shown)

    def halt(self, reason: str) -> None:
        """Stop writing: "stop" keeps what there is, "gate" shows no more, "fenced" and "drain" leave it to another."""
        if self._halted is None:
            self._halted = reason
            self._wake.set()

    # --- the turn

    async def run(self) -> None:
        """Write the reply to its end. What fails is told in the stream and counted."""
        self._tools.leases.hold(self)
        try:
            await self._run()
        except (FencedError, OwnerMismatchError):
            ZOMBIE_WRITES.inc()
        except StoreUnavailableError:
            log.warning("turn_left_to_takeover", turn_id=str(self.turn_id))
        except Exception as error:
            problem = translate(error)
            if isinstance(error, (RapportError, BackendError)):
                log.warning("turn_failed", turn_id=str(self.turn_id), code=problem.code, error=str(error))
            else:
                log.exception("turn_failed", turn_id=str(self.turn_id))
            await self._fail(problem)
        finally:
            await self._drop_opening()
            self._tools.leases.drop(self)
            if not self._live.ended:
                self._live.abandon()

    async def _run(self) -> None:
        told = await self._book.take_over(self._grade) if self.epoch > 1 else False
        if self.epoch == 1 and self._turn.checkpoint:
            await self._book.begin_behind(self._turn.checkpoint)
        material = await self._gather()
        if not self._book.text:
            # the model reads the prompt while readers are told what was recalled
            self._opening = asyncio.ensure_future(self._open_stream(material))
            await asyncio.sleep(0)  # first the request goes out, then what was recalled is written down
        if not told:
            await self._book.emit(ev.RECALLED, material.recalled_event())
        for notice in material.notices:
            if not self._book.has_told(notice["id"]):
                await self._book.emit(ev.NOTICE, notice)
        stopped = False
        try:
            await self._produce(material)
        except _HaltedError as halted:
            match halted.reason:
                case "fenced":
                    raise FencedError from halted
                case "drain":
                    await self._hand_over()
                    return
                case "gate":
                    await self._cancel_upstream()
                    raise ForbiddenError(
                        "The conversation was locked while the reply was being written.", code="route_locked"
                    ) from halted
            stopped = True
        await self._commit(material, stopped=stopped)
        if stopped:
            await self._cancel_upstream()

    async def _drop_opening(self) -> None:
        """Close what was asked for and never read."""
        opening, self._opening = self._opening, None
        if opening is not None:
            opening.cancel()
            with contextlib.suppress(asyncio.CancelledError, RapportError, BackendError):
                await (await opening).deltas.aclose()

    def _grade(self, text: str) -> str:
        """How the reply goes on: as if nothing had been, continued behind what was shown, or from its beginning."""
        if not text or self._can_resume(text):
            return "exact"
        name = self._turn.request.get("backend")
        continues = self._goes_on or self._tools.backends.can_continue(self._turn.route, name)
        return "prefix" if continues else "restart"

    def _can_resume(self, text: str) -> bool:
        backends = self._tools.backends
        return bool(self._upstream.resume(text)) and backends.can_resume(self._turn.route, self._upstream.backend)

    async def _produce(self, material: Material) -> None:
        """Read the backend until the reply is whole, continuing or restarting it when the backend breaks off."""
        if self._book.text and self._grade(self._book.text) == "restart":
            await self._book.restart("restarted")
        for attempt in range(1, UPSTREAM_ATTEMPTS + 1):
            try:
                await self._stream_once(material)
            except CannotContinueError:
                await self._go_on_otherwise()
            except BackendError as error:
                if attempt == UPSTREAM_ATTEMPTS or not (
                    error.retryable and (self._book.text or self._upstream.response_id)
                ):
                    raise
                log.warning("upstream_broke_off", turn_id=str(self.turn_id), code=error.code, attempt=attempt)
                if self._upstream.response_id and attempt > 1:
                    await self._go_on_otherwise()
            else:
                return
        raise UnavailableError(
            "The model server broke off again and again. Your message is kept; try again.", code="backend_interrupted"
        )

    async def _go_on_otherwise(self) -> None:
        """Where what was tried can't be done: after reading on comes continuing, then plain words, then a new beginning."""
        if self._upstream.response_id:
            await self._cancel_upstream()
            self._upstream.forget()
            if (grade := self._grade(self._book.text)) == "restart":
                await self._book.restart("restarted")
            elif self._book.text:
                await self._book.taken_over_as(grade)
        elif self._goes_on and self._joint is None and self._book.text:
            self._joint = Joint(self._book.text)
        else:
            self._joint = None
            await self._book.restart("restarted")

    async def _stream_once(self, material: Material) -> None:
        opening, self._opening = self._opening or self._open_stream(material), None
        opened = self._opened = await self._or_halt(opening)
        reader = asyncio.create_task(self._read(opened), name=f"upstream-{self.turn_id}")
        shown = 0.0
        try:
            while not reader.done() or self._book.shown < len(self._book.text) or self._book.thoughts.pending:
                await self._wake.wait()
                if not reader.done():
                    self._wake.clear()
                # The first token goes at once; from then on what arrives together travels together. A backend that
                # lets tokens gather wakes us no sooner.
                if (rest := shown + self._pause() - time.monotonic()) > TIMER_SECONDS and not reader.done():
                    await asyncio.sleep(rest)
                shown = time.monotonic()
                if self._retracting is not None:
                    await self._retract(self._retracting)
                await self._book.show()
                if self._halted is not None:
                    raise _HaltedError(self._halted)
            reader.result()
        finally:
            reader.cancel()
            with contextlib.suppress(asyncio.CancelledError, BackendError):
                await reader
            # a reader that was cancelled before its first step has closed nothing
            with contextlib.suppress(BackendError):
                await opened.deltas.aclose()

    async def _retract(self, done: asyncio.Event) -> None:
        """What was said so far was the model's thinking: readers are told, and nothing of it stays."""
        self._retracting = None
        self._book.thoughts.add(self._book.text)
        if self._book.shown:
            await self._book.restart("thinking")
        self._book.text = ""
        done.set()

    async def _or_halt(self, opening: Awaitable[Opened]) -> Opened:
        """Wait for the backend, which may take its time, without being deaf to a stop."""
        task = asyncio.ensure_future(opening)
        opened: Opened | None = None
        try:
            while not task.done():
                either: set[asyncio.Future[Any]] = {task, self._wake.waited()}
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
                self._wake.clear()
                if self._halted is not None:
                    raise _HaltedError(self._halted)
                await self._tell_place()
                if self._book.thoughts.pending:
                    await self._book.show_thoughts()
                    await asyncio.wait({task}, timeout=self._pause())
            opened = task.result()
        finally:
            task.cancel()
            if opened is None and task.done() and not task.cancelled() and task.exception() is None:
                await task.result().deltas.aclose()  # it opened as the halt came: nobody will read it
        return opened

    def _pause(self) -> float:
        """Seconds for which what comes gathers before it is shown."""
        return self._tools.rhythm.pause() if self._book.logged else DEGRADED_PAUSE

    def _think(self, thought: str) -> None:
        self._book.thoughts.add(thought)
        self._wake.set()

    async def _open_stream(self, material: Material) -> Opened:
        self._asked = time.monotonic()
        resumes = self._can_resume(self._book.text)
        thoughts = self._book.thoughts
        resume = self._upstream.resume(self._book.text) if resumes else None
        # a response that is read from its beginning brings its thoughts again
        thoughts.settle(keep=bool(self._book.text) if resume is None else resume.after is not None)
        if self._joint is not None:
            self._joint = Joint(self._book.text)

        def build(target: Target) -> ChatRequest:
            thoughts.back()
            prefix = "" if resumes else self._book.text
            request = build_request(material, target, prefix=prefix, reply_tokens=self._tools.reply_tokens)
            heard = self._think if thoughts.kept else None
            request = replace(request, gather=self._tools.rhythm.until_together, on_thought=heard)
            if resumes:
                return replace(request, resume=self._upstream.resume(self._book.text))
            request = replace(request, outlives=True, on_begun=self._begun_upstream)
            return plainly(request, prefix) if self._joint is not None else request

        return await self._tools.backends.open_stream(
            build,
            route=self._turn.route,
            name=self._upstream.backend if resumes else self._turn.request.get("backend"),
            message=material.message.content,
            on_position=self._hear_place,
        )

    async def _begun_upstream(self, backend: str, response_id: str) -> None:
        """The server will go on writing without us: who takes over must know before anything is shown."""
        self._upstream.begin(backend, response_id, len(self._book.text))
        await self._note_upstream()

    async def _note_upstream(self) -> None:
        if place := self.place():
            with contextlib.suppress(StoreUnavailableError):
                async with self._tools.database.as_user(self.user_id) as connection:
                    await leases.note_upstream(connection, self.user_id, self.turn_id, self.epoch, place)

    async def _cancel_upstream(self) -> None:
        if self._upstream.response_id:
            await self._tools.backends.cancel(self._upstream.backend, self._upstream.response_id)

    def _hear_place(self, place: int) -> None:
        self._place = place
        self._wake.set()

    async def _tell_place(self) -> None:
        """Say how long the queue for the model is: at first, and whenever half of it has gone."""
        place, self._place = self._place, 0
        if place and (not self._place_told or place * 2 <= self._place_told):
            self._place_told = place
            text = (
                "The model is busy. You are next."
                if place == 1
                else f"The model is busy. Your place in the queue: {place}."
            )
            await self._book.emit(ev.NOTICE, {"id": f"queue {place}", "kind": "queue", "text": text})

    async def _read(self, opened: Opened) -> None:
        finish, usage = "stop", None
        try:
            async with contextlib.aclosing(opened.deltas) as deltas:
                async for delta in deltas:
                    if delta.retract:
                        self._retracting = done = asyncio.Event()
                        self._wake.set()
                        await done.wait()  # the log has one writer, and that is not this task
                    if delta.reasoning and self._book.thoughts.kept:
                        self._think(delta.reasoning)
                    if delta.text:
                        if not self._book.text:
                            self._observe_first_token()
                        self._book.text += self._joint.feed(delta.text) if self._joint else delta.text
                        self._wake.set()
                    if delta.position:
                        self._upstream.moved(delta.position, len(self._book.text))
                    finish = delta.finish_reason or finish
                    usage = delta.usage or usage
            if self._joint:
                self._book.text += self._joint.close()
            self._finish = (finish, usage)
        finally:
            self._wake.set()

    def _observe_first_token(self) -> None:
        now = time.monotonic()
        FIRST_TOKEN.labels("backend").observe(now - self._asked)
        FIRST_TOKEN.labels("added").observe(self._asked - self._began)

    # --- the end

    async def _commit(self, material: Material, *, stopped: bool) -> None:
        finish, usage = self._finish
        opened = self._opened
        reply = Reply(
            message_id=self._reply_id,
            text=self._book.shown_text,
            finish_reason="stopped" if stopped else finish,
            backend=opened.target.backend if opened else "",
            model=opened.target.model if opened else "",
            scripted=opened.target.scripted if opened else False,
            usage={"prompt_tokens": usage.prompt_tokens, "completion_tokens": usage.completion_tokens}
            if usage
            else None,
            speaker=material.companion_name or None,
            stopped=stopped,
            reasoning=self._book.thoughts.text,
        )

        async def statement(connection: Any) -> Committed | None:
            return await turns.commit(connection, self.user_id, self.turn_id, self.epoch, reply)

        committed = await patiently(self._tools.database, self.user_id, statement)
        if committed is None:
            raise FencedError
        TURNS.labels("stopped" if stopped else "completed").inc()
        data = {
            "message_id": reply.message_id,
            "seq": committed.seq,
            "finish_reason": reply.finish_reason,
            "usage": reply.usage,
            "backend": reply.backend,
            "model": reply.model,
            "scripted": reply.scripted,
        }
        await self._book.emit(ev.COMPLETED, data, last=True)
        await self._on_commit(self._turn, material, reply, committed)

    async def _fail(self, error: RapportError) -> None:
        problem = {"retryable": error.status >= 500, "retry_after": None, **error.problem()}
        TURNS.labels("failed").inc()

        shown = self._book.shown_text
        spent = quotas.estimated(len(shown) - self._turn.request.get("begun_chars", 0))

        async def statement(connection: Any) -> bool:
            return await turns.fail(connection, self.user_id, self.turn_id, self.epoch, problem, shown, spent)

        try:
            try:
                ended = await patiently(self._tools.database, self.user_id, statement)
            except asyncpg.DataError:
                # words that PostgreSQL doesn't take must not keep the turn from ending: nothing could be said after it
                log.exception("shown_text_not_kept", turn_id=str(self.turn_id))
                shown = ""
                ended = await patiently(self._tools.database, self.user_id, statement)
            if ended:
                await self._book.emit(ev.FAILED, problem, last=True)
        except (FencedError, OwnerMismatchError, StoreUnavailableError):
            log.warning("turn_failure_not_told", turn_id=str(self.turn_id), code=error.code)

    async def _hand_over(self) -> None:
        """Leave the turn to whoever claims it first, at once."""
        await self._note_upstream()

        async def statement(connection: Any) -> None:
            await leases.release(connection, self.user_id, self.turn_id, self.epoch, self._book.shown_text)

        await patiently(self._tools.database, self.user_id, statement)
