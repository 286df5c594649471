"""How long tokens gather before they are logged and shown: the busier the process, the longer, and all in step."""

import asyncio
import math
from collections.abc import Sized

BATCHES_A_SECOND = 1000
"""Of all replies of a process: about a fifth of a core."""
SMOOTH_SECONDS = 0.075
"""How far many replies alone lengthen the pause: a reader takes it for an even flow."""
MOST_SECONDS = 0.25
"""What a reader still takes for talk and not for paragraphs."""
LAGS = 5
"""A pause lasts at least so many times what the event loop is late by: then batches are not what makes it late."""
TOGETHER_SECONDS = 0.025
"""How far apart the moments are at which replies of a busy process go on."""
MANY = 10
"""Replies from which on they go on together."""
BEAT_SECONDS = 0.05
MEMORY = 0.1
"""How much one beat tells: the last half second counts for most."""


class Rhythm:
    """The pauses of all replies that one process writes."""

    def __init__(self, replies: Sized, flush_seconds: float) -> None:
        self.flush_seconds = flush_seconds
        """The shortest pause."""
        self.lag = 0.0
        """By how many seconds the event loop was late of late: what waits for the processor, here or for others' sake."""
        self._replies = replies

    async def run(self) -> None:
        """Feel how late the event loop is, for ever; cancelled at shutdown."""
        clock = asyncio.get_running_loop().time
        while True:
            due = clock() + BEAT_SECONDS
            await asyncio.sleep(BEAT_SECONDS)
            self.lag += (max(0.0, clock() - due) - self.lag) * MEMORY

    def pause(self) -> float:
        """Seconds for which tokens gather now.

        A batch costs about 0.2 ms of processor time whatever is in it, so that their number is kept and not their size.
        """
        many = min(SMOOTH_SECONDS, len(self._replies) / BATCHES_A_SECOND)
        return max(self.flush_seconds, min(MOST_SECONDS, max(many, self.lag * LAGS)))

    def until_together(self) -> float:
        """Seconds until tokens have gathered, and those of other replies with them: what many replies do in one turn of
        the event loop costs less than as many turns, above all on the way to Redis and back. Few wait for nobody."""
        pause = self.pause()
        if len(self._replies) < MANY:
            return pause
        now = asyncio.get_running_loop().time()
        return math.ceil((now + pause) / TOGETHER_SECONDS) * TOGETHER_SECONDS - now
