"""One turn from the message to the stream, and the turns of this process as a whole."""

import asyncio
import contextlib
import hashlib
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from memory import turns
from memory.errors import AgeAssuranceRequiredError, TurnInProgressError, TurnRefusedError
from memory.gates import Gate, may_stream
from memory.postgres import Database
from memory.quotas import PROMPT_ESTIMATE, QuotaExceededError, hold_quota
from memory.turns import Accepted, ClaimedTurn, Committed, NewTurn, Reply, StoredTurn, TurnState
from service.chat import events as ev
from service.chat.follow import ReplyReader, accepted_event
from service.chat.live import LiveReply
from service.chat.logbook import patiently
from service.chat.metrics import RUNNING, TURNS_REFUSED
from service.chat.past import BUFFER_LINES, Past
from service.chat.prompt import Material
from service.chat.recall import AT_ONCE, Looked, Recaller, Vector
from service.chat.takeovers import Takeovers
from service.chat.turnstile import Turnstile
from service.chat.writer import ReplyWriter, Tools
from service.compliance.duty import Duty
from service.errors import UnavailableError
from service.jobs import Jobs
from service.limits import RateLimitedError
from sessions.replies import FIRST, Event, EventId, Log
from sessions.state import Line
from sessions.store import Live, LiveState

ACCEPTS = 2
"""Messages that are accepted at once, for each that recalls: where turns have to wait, they wait with their message kept.
With three, 1,000 users on a starved machine used all of a pool of 40, and with one they waited 13 s to be accepted."""

Told = tuple[dict[str, Any], ...]
"""What the user must be told before a reply, as its events' data."""


@dataclass(frozen=True, slots=True)
class Send:
    """A user's message on its way in."""

    user_id: UUID
    conversation_id: UUID
    content: str
    client_message_id: str | None = None
    speaker: str | None = None
    request: dict[str, Any] | None = None
    parent_id: UUID | None = None
    """Say it after this message instead of the latest: a branch beside what followed it."""
    at_root: bool = False
    """Say it in the first message's place."""
    answers: UUID | None = None
    """Answer this message of the user's once more; `content` is then its text."""
    prefix: str = ""
    """Go on behind this text of a reply to it."""


class ChatEngine:
    """Accepts turns, writes their replies here (unless a runner does), and follows them."""

    def __init__(
        self,
        *,
        database: Database,
        live: LiveState,
        tools: Tools,
        recaller: Recaller,
        jobs: Jobs,
        gate: Gate,
        duty: Duty,
        resumable: Callable[..., bool],
        writes_here: bool,
        tokens_per_day: int = 0,
        at_once: int = AT_ONCE,
    ) -> None:
        """`tokens_per_day` is each user's quota of model tokens; 0 sets none. `at_once` turns recall together,
        and `ACCEPTS` times as many are accepted."""
        self._database = database
        self._live = live
        self._past = Past(database, live)
        self._tools = tools
        self._recaller = recaller
        self._jobs = jobs
        self._gate = gate
        self._duty = duty
        self._resumable = resumable
        self._writes_here = writes_here
        self._tokens_per_day = tokens_per_day
        self._turnstile = Turnstile("accept", at_once * ACCEPTS)
        self._running: dict[UUID, LiveReply] = {}
        self._writers: dict[UUID, ReplyWriter] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: set[asyncio.Task[Looked]] = set()
        self.takeovers = Takeovers(
            database=database,
            tools=tools,
            gate=gate,
            resumable=resumable,
            own=self._writers,
            start=self._start,
            gather=self._gather_anew,
            paused=lambda: self.draining,
        )
        self._reader = ReplyReader(database, tools.replies, self._running, self.takeovers.claim)
        self.draining = False
        """It takes over nothing more, and says that it isn't ready; what reaches it still is answered."""
        self.closed = False
        """It takes no message more."""

    # --- accept

    async def send(self, message: Send) -> AsyncIterator[Sequence[Event]]:
        """Accept the message and give its reply's stream. Raises before anything was written, or after all was."""
        if self.closed:
            raise UnavailableError(
                "This instance is shutting down; the next one takes your message.", code="draining", retry_after=1
            )
        new = NewTurn(
            user_id=message.user_id,
            conversation_id=message.conversation_id,
            turn_id=uuid7(),
            message_id=uuid7(),
            content=message.content,
            fingerprint=_fingerprint(message),
            client_message_id=message.client_message_id,
            speaker=message.speaker,
            request=message.request or {},
            parent_id=message.parent_id,
            at_root=message.at_root,
            answers=message.answers,
            prefix=message.prefix,
            leased=self._writes_here,
        )
        beside = self._look(message) if self._writes_here else None
        accepted, notices = await self._accept(new)
        key = Log(message.user_id, message.conversation_id, accepted.turn_id)
        if accepted.duplicate:
            return await self.follow(message.user_id, message.conversation_id, accepted.turn_id, None, duplicate=True)
        first = ev.event(
            FIRST,
            ev.ACCEPTED,
            ev.accepted_data(
                accepted.turn_id,
                message.conversation_id,
                accepted.message_id,
                accepted.seq,
                accepted.created_at,
                resumable=self._resumable(message.conversation_id),
            ),
        )
        if beside is not None:
            turn = _claimed(new, accepted)
            line = Line(accepted.seq, "user", message.content, message.speaker)
            place = (accepted.parent_id, accepted.version)
            gathering = self._gather(turn, line, place, *beside, notices)
            self._start(turn, LiveReply(key, [first]), gathering)
            return self._reader.events(key, None)
        return _after(first, self._reader.events(key, FIRST))

    def _look(self, message: Send) -> tuple[asyncio.Task[Looked], asyncio.Task[Vector | None]]:
        """Begin what a reply needs beside the accept. When that refuses, it ends by itself: a statement that is cancelled
        costs a connection."""
        vector = self._recaller.embed(message.content)
        # what is said elsewhere than behind the latest message has another past, which the accept tells
        latest = message.parent_id is None and message.answers is None and not message.at_root
        find = self._past.found if latest else self._past.load
        found = find(message.user_id, message.conversation_id)
        looking = asyncio.create_task(
            self._recaller.look(found, vector, message.content, message.speaker), name="look-beside"
        )
        self._looking.add(looking)
        looking.add_done_callback(self._looking.discard)
        return looking, vector

    async def send_or_join(self, message: Send, *, repeated: bool) -> AsyncIterator[Sequence[Event]]:
        """Like `send`, for clients without message ids: who asks again for a message's reply is given the one that is
        being written, and, when the request is `repeated`, the one that was."""
        if message.answers is not None:
            async with self._database.as_user(message.user_id) as connection:
                latest = await turns.latest_turn(connection, message.user_id, message.conversation_id, message.answers)
            if latest is not None and (latest.status == "running" or (repeated and latest.status == "completed")):
                return await self.follow(message.user_id, message.conversation_id, latest.turn_id, None, duplicate=True)
        return await self.send(message)

    async def _accept(self, new: NewTurn) -> tuple[Accepted, Told | None]:
        """The message in its place, and what must be told before its reply: one transaction for both."""
        for attempt in (1, 2):
            try:
                async with self._turnstile, self._database.as_user(new.user_id) as connection:
                    accepted = await turns.accept(connection, new, self._gate, self._tools.leases.lease_seconds)
                    if self._tokens_per_day and not accepted.duplicate:
                        estimate = self._tools.reply_tokens + PROMPT_ESTIMATE + len(new.content) // 4
                        await hold_quota(connection, new.user_id, self._tokens_per_day, estimate)
                    told = None
                    if self._writes_here and not accepted.duplicate:
                        told = await self._due(
                            connection, new.user_id, new.conversation_id, accepted.turn_id, new.content
                        )
                    return accepted, told
            except QuotaExceededError as error:
                raise RateLimitedError(
                    "Your tokens for today are used up. They are new at midnight, UTC.",
                    retry_after=math.ceil(error.seconds),
                    code="quota_exceeded",
                ) from error
            except asyncpg.UniqueViolationError:
                # the same message came twice at once, and the other was first: look again, and find it
                if attempt == 2:
                    raise
            except TurnInProgressError as error:
                TURNS_REFUSED.labels(type(error).__name__).inc()
                if attempt == 2 or new.client_message_id is None:
                    raise
            except TurnRefusedError as error:
                TURNS_REFUSED.labels(type(error).__name__).inc()
                raise
        raise AssertionError("unreachable")

    # --- follow, stop

    async def read_turn(self, user_id: UUID, conversation_id: UUID, turn_id: UUID) -> StoredTurn:
        async with self._database.as_user(user_id) as connection:
            return await turns.read_turn(connection, user_id, conversation_id, turn_id)

    async def follow(
        self, user_id: UUID, conversation_id: UUID, turn_id: UUID, after: EventId | None, *, duplicate: bool = False
    ) -> AsyncIterator[Sequence[Event]]:
        """The turn's stream after `after`. Raises `ConversationNotFoundError` for anybody but its owner, and
        `AgeAssuranceRequiredError` when they may not see its route any more."""
        async with self._database.as_user(user_id) as connection:
            turn = await turns.read_turn(connection, user_id, conversation_id, turn_id)
            if not await may_stream(connection, user_id, turn.route, self._gate):
                raise AgeAssuranceRequiredError(f"The route {turn.route!r} asks for an age assurance.")
        key = Log(user_id, conversation_id, turn_id)
        if after is not None:
            return self._reader.events(key, after)
        return _after(accepted_event(turn, duplicate=duplicate), self._reader.events(key, FIRST))

    async def stop(self, user_id: UUID, conversation_id: UUID, turn_id: UUID) -> tuple[TurnState, str | None]:
        """Stop the reply, wherever it is written; gives the turn's status and the last event's id when it has ended."""
        await self.read_turn(user_id, conversation_id, turn_id)
        async with self._database.as_user(user_id) as connection:
            await turns.request_stop(connection, user_id, conversation_id, turn_id)
        if writer := self._writers.get(turn_id):
            writer.halt("stop")
        last: str | None = None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                async for batch in self._reader.events(Log(user_id, conversation_id, turn_id), None):
                    last = str(batch[-1].id)
        return (await self.read_turn(user_id, conversation_id, turn_id)).status, last

    # --- write

    def _start(self, turn: ClaimedTurn, live: LiveReply, gathering: Coroutine[Any, Any, Material]) -> None:
        material = asyncio.ensure_future(gathering)

        async def gathered() -> Material:
            return await material

        writer = ReplyWriter(turn, live, self._tools, gathered, self._committed)
        self._running[turn.turn_id] = live
        self._writers[turn.turn_id] = writer
        task = asyncio.create_task(writer.run(), name=f"reply-{turn.turn_id}")
        self._tasks.add(task)
        RUNNING.inc()

        def ended(task: asyncio.Task[None]) -> None:
            RUNNING.dec()
            material.cancel()
            self._tasks.discard(task)
            if self._writers.get(turn.turn_id) is writer:
                del self._writers[turn.turn_id]
                del self._running[turn.turn_id]

        task.add_done_callback(ended)

    async def _gather(
        self,
        turn: ClaimedTurn,
        line: Line,
        place: tuple[UUID | None, int],
        found: Awaitable[Looked],
        vector: Awaitable[Vector | None],
        told: Told | None = None,
    ) -> Material:
        """Bring together what the prompt is made of: the live state (rebuilt if it is stale) and the recalled memories.

        `place` is the message that the turn follows, and the version of the conversation that it was accepted in."""
        looked = await found
        buffer = looked.live.buffer
        if buffer is None or (buffer.head_id, buffer.version) != place:
            buffer = await self._past.rebuilt(turn.user_id, turn.conversation_id, place[0])
        recalled = looked.recalled_for(turn.route, buffer)
        if recalled is None:
            recalled = await self._recaller.recall(buffer, turn.route, line.content, line.speaker, await vector)
        extra = {"degraded": recalled.degraded, "words_only": recalled.words_only}
        instructions = turn.request.get("instructions", "")
        return Material(
            line,
            buffer,
            recalled.items,
            recalled.elapsed_ms,
            recalled.tokens,
            instructions,
            extra,
            told if told is not None else await self._due_again(turn, line.content),
            profile=recalled.profile,
            sampling=turn.request.get("sampling", {}),
            begun_chars=turn.request.get("begun_chars", 0),
        )

    def _gather_anew(
        self, turn: ClaimedTurn, line: Line, place: tuple[UUID | None, int]
    ) -> Coroutine[Any, Any, Material]:
        """For a turn beside whose accept nothing was looked for here."""
        found = _unlooked(self._past.load(turn.user_id, turn.conversation_id))
        return self._gather(turn, line, place, found, self._recaller.embed(line.content))

    async def _due(self, connection: Any, user_id: UUID, conversation_id: UUID, turn_id: UUID, text: str) -> Told:
        """What the user must be told; without it no reply begins."""
        due = await self._duty.due_notices(connection, user_id, conversation_id, turn_id, text)
        return tuple(notice.data for notice in due)

    async def _due_again(self, turn: ClaimedTurn, text: str) -> Told:
        async def due(connection: Any) -> Told:
            return await self._due(connection, turn.user_id, turn.conversation_id, turn.turn_id, text)

        found: Told = await patiently(self._database, turn.user_id, due)
        return found

    async def _committed(self, turn: ClaimedTurn, material: Material, reply: Reply, committed: Committed) -> None:
        """After the commit: the live copy, and a wake-up for the learner. Neither may fail the turn."""
        line = Line(committed.seq, "assistant", reply.text, reply.speaker)
        if committed.version != material.buffer.version:
            # words of the past that this reply was made of may have been forgotten since
            await self._live.forget(turn.conversation_id)
        else:
            buffer = material.buffer.extended((material.message, line), reply.message_id, BUFFER_LINES)
            await self._live.save(None, buffer)
        await self._jobs.wake_learner(turn.user_id, turn.conversation_id)

    # --- shut down

    @property
    def writing(self) -> int:
        """How many replies this process writes."""
        return len(self._tasks)

    async def drain(self, seconds: float) -> None:
        """Take no more turns, let replies finish for `seconds`, then hand the rest over."""
        self.draining = self.closed = True
        deadline = time.monotonic() + seconds
        while self._tasks and time.monotonic() < deadline:
            await asyncio.wait(
                set(self._tasks), timeout=max(0.0, deadline - time.monotonic()), return_when=asyncio.FIRST_COMPLETED
            )
        for writer in list(self._writers.values()):
            writer.halt("drain")
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=3)
        for task in set(self._tasks):
            task.cancel()


def _fingerprint(message: Send) -> bytes:
    canonical = orjson.dumps([message.content, message.speaker, message.request or {}], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(canonical).digest()


def _claimed(new: NewTurn, accepted: Accepted) -> ClaimedTurn:
    return ClaimedTurn(
        user_id=new.user_id,
        turn_id=accepted.turn_id,
        conversation_id=new.conversation_id,
        user_message_id=accepted.message_id,
        epoch=FIRST.epoch,
        attempts=1,
        checkpoint=new.prefix,
        request=new.request,
        route=accepted.route,
        created_at=datetime.now(UTC),
    )


async def _unlooked(found: Awaitable[Live]) -> Looked:
    return Looked(await found)


async def _after(first: Event, rest: AsyncIterator[Sequence[Event]]) -> AsyncIterator[Sequence[Event]]:
    yield (first,)
    async for batch in rest:
        yield batch
