"""Turns that nobody writes: found, claimed, and given to a writer of this process."""

import asyncio
from collections.abc import Callable, Collection, Coroutine
from typing import Any
from uuid import UUID

import structlog

from memory import turns
from memory.errors import ConversationNotFoundError, LongTermMemoryError, StoreUnavailableError
from memory.gates import Gate, may_continue
from memory.postgres import Database
from memory.transcript import read_branch
from memory.turns import ClaimedTurn
from service.chat.follow import accepted_event
from service.chat.live import LiveReply
from service.chat.metrics import LOOP_FAILURES, TAKEOVERS
from service.chat.prompt import Material
from service.chat.writer import Tools
from service.errors import UnavailableError
from sessions.replies import FIRST, Log
from sessions.state import Line

log = structlog.get_logger(__name__)

MAX_EPOCHS = 60
"""Writers of one turn in all, whatever they managed."""
MAX_ATTEMPTS = 6
"""Writers that a turn may use up without getting on, before it counts as poison."""
CLAIM_SECONDS = 0.2
"""Between looks for turns that nobody writes: on average half of it is added to a take-over's gap. A look costs each
process about a millisecond."""
FAILED_SECONDS = 1.0
"""Between looks that fail by an error of ours: each is logged whole."""
LOGLESS_SECONDS = 1.5
"""How long an instance that can't reach Redis leaves orphaned turns to instances that can."""
BUSY_GRACE = 15
"""How many times what its event loop is late by an instance leaves orphaned turns to others."""

Gathering = Coroutine[Any, Any, Material]


class Takeovers:
    """Goes on with the turns of writers that died, and begins those that nobody has begun."""

    def __init__(
        self,
        *,
        database: Database,
        tools: Tools,
        gate: Gate,
        resumable: Callable[..., bool],
        own: Collection[UUID],
        start: Callable[[ClaimedTurn, LiveReply, Gathering], None],
        gather: Callable[[ClaimedTurn, Line, tuple[UUID | None, int]], Gathering],
        paused: Callable[[], bool],
    ) -> None:
        """`own` are the turns written here, whatever became of their leases; `start` begins to write one, with what
        `gather` brings together. While `paused` nothing is taken over."""
        self._database = database
        self._tools = tools
        self._gate = gate
        self._resumable = resumable
        self._own = own
        self._start = start
        self._gather = gather
        self._paused = paused

    async def run(self) -> None:
        """Look for turns that nobody writes, for ever; cancelled at shutdown."""
        while True:
            await asyncio.sleep(CLAIM_SECONDS)
            if not await self.claim():
                await asyncio.sleep(FAILED_SECONDS)

    async def claim(self, turn_id: UUID | None = None) -> bool:
        """Take over what nobody writes, or this one turn if nobody does. False when that failed by an error of ours, which
        ends here: neither the look for turns nor the reader who asked may end by it."""
        if self._paused():
            return True
        # what this process writes, it reads from upstream still: after a hold-up its lease is renewed, not taken over
        own = list(self._own)
        # PostgreSQL's copy of a reply is up to a second old: who can't see the logs lets those go first who can
        grace = 0.0 if self._resumable() or not self._tools.replies.durable else LOGLESS_SECONDS
        # a busy process lets those go first who aren't; where all are, so is the writer, and a take-over would add to it
        grace = max(grace, min(LOGLESS_SECONDS, self._tools.rhythm.lag * BUSY_GRACE))
        try:
            async with self._database.system() as connection:
                claimed = await turns.claim(
                    connection, self._tools.leases.lease_seconds, 8, turn_id, own=own, grace=grace
                )
        except StoreUnavailableError:
            return True
        except Exception:
            LOOP_FAILURES.labels("claim").inc()
            log.exception("claim_failed")
            return False
        return all([await self._begin(turn) for turn in claimed])

    async def _begin(self, turn: ClaimedTurn) -> bool:
        """`_take_over`, whose failure is this turn's alone: its lease runs out, and it is claimed again."""
        about = {"turn_id": str(turn.turn_id), "epoch": turn.epoch}
        try:
            await self._take_over(turn)
        except LongTermMemoryError as error:
            log.warning("takeover_failed", **about, error=type(error).__name__)
        except Exception:
            LOOP_FAILURES.labels("takeover").inc()
            log.exception("takeover_failed", **about)
            return False
        else:
            if turn.epoch > FIRST.epoch:
                TAKEOVERS.inc()
                log.info("turn_taken_over", **about)
        return True

    async def _take_over(self, turn: ClaimedTurn) -> None:
        async with self._database.as_user(turn.user_id) as connection:
            turn = await turns.open_claimed(connection, turn)
            stored = await turns.read_turn(connection, turn.user_id, turn.conversation_id, turn.turn_id)
            branch = await read_branch(connection, turn.user_id, turn.conversation_id, turn.user_message_id, 1)
            if not branch:  # deleted between the two statements
                raise ConversationNotFoundError("There is no such message.")
            poisoned = turn.attempts > MAX_ATTEMPTS or turn.epoch > MAX_EPOCHS
            if poisoned or not await may_continue(connection, turn.user_id, turn.turn_id, self._gate):
                code = "turn_poisoned" if poisoned else "route_locked"
                refused = UnavailableError(
                    "This reply could not be finished. Your message is kept; try again.", code=code
                )
            else:
                refused = None
        message = branch[-1]
        line = Line(stored.user_seq, "user", message.content, message.speaker)
        key = Log(turn.user_id, turn.conversation_id, turn.turn_id)
        live = LiveReply(key, [accepted_event(stored)] if turn.epoch == FIRST.epoch else [])
        if refused is not None:
            # its writer begins and fails at once: so readers hear of it, and keep what they have
            self._start(turn, live, _refusing(refused))
            return
        self._start(turn, live, self._gather(turn, line, (message.parent_id, stored.version)))


async def _refusing(problem: UnavailableError) -> Material:
    raise problem
