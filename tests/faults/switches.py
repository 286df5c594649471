"""Turn off, one at a time, what keeps replies and work safe: so that the harness is seen to notice.

These replace parts of the running program in a child of the harness. The product has no such switch.
"""

import dataclasses
from collections.abc import Callable

import memory.facts
import memory.leases
import memory.lessons
import memory.turns
import service.worker.main
import sessions.logs

LEARN_CONFIG = "learn_config"
KNOWN: dict[str, Callable[[], None]] = {}


def switch(name: str) -> Callable[[Callable[[], None]], Callable[[], None]]:
    def known(turn_off: Callable[[], None]) -> Callable[[], None]:
        KNOWN[name] = turn_off
        return turn_off

    return known


def apply(name: str) -> None:
    if name:
        KNOWN[name]()


def replaced(text: str, part: str, by: str) -> str:
    """A switch that no longer finds what it turns off must not pass for one that did."""
    assert part in text, part
    return text.replace(part, by)


@switch("log-compare-and-set")
def log_compare_and_set() -> None:
    """Append whatever is on top of the log: fenced and lost are never answered."""
    script = sessions.logs.SCRIPT
    for line in (
        "if top_epoch > epoch then return 'fenced' end",
        "if ARGV[1] ~= '*' and ARGV[1] ~= top_id then return 'lost' end",
    ):
        script = replaced(script, line, "")
    # a stream refuses ids below its top by itself: the naive log takes whatever number comes
    script = replaced(script, "redis.call('XADD', KEYS[1], ARGV[i],", "redis.pcall('XADD', KEYS[1], ARGV[i],")
    sessions.logs.SCRIPT = script


@switch("commit-epoch")
def commit_epoch() -> None:
    """Commit a reply, and keep its lease, without asking whether another writer has the turn, or has ended it."""
    fence = "AND epoch = $3 AND status = 'running'"
    memory.turns.COMMIT = replaced(memory.turns.COMMIT, fence, "AND $3 > 0")
    fence = "AND t.epoch = held.epoch AND t.status = 'running'"
    memory.leases.RENEW = replaced(memory.leases.RENEW, fence, "AND held.epoch > 0")


@switch("unique-message")
def unique_message() -> None:
    """Take a message that was sent again for another one."""
    accept = memory.turns.ACCEPT
    accept = replaced(
        accept,
        "WHERE user_id = $1 AND conversation_id = $2 AND client_message_id = $3",
        "WHERE user_id = $1 AND $3 = '' AND $2 IS NULL",
    )
    # the unique key would refuse it as well: it is kept apart by the message's own id
    accept = replaced(accept, "'user', $14, $13, $3, $15,", "'user', $14, $13, $3 || $8::text, $15,")
    memory.turns.ACCEPT = accept


@switch("outbox")
def outbox() -> None:
    """Leave no work behind in PostgreSQL: the queue's message is all there is."""
    memory.turns.COMMIT = replaced(
        memory.turns.COMMIT,
        "SELECT $1, conversation_id FROM done\n",
        "SELECT $1, conversation_id FROM done WHERE false\n",
    )
    memory.turns.ACCEPT = replaced(
        memory.turns.ACCEPT, "interval '20 seconds' FROM bumped", "interval '20 seconds' FROM bumped WHERE false"
    )


def any_watermark() -> None:
    """Move the watermark wherever it stands: the compare-and-set alone."""
    memory.lessons.ADVANCE = replaced(memory.lessons.ADVANCE, "AND learnt_seq = $3", "AND $3 >= 0")


@switch("watermark")
def watermark() -> None:
    """Move the watermark wherever it stands, without the key behind it, and let any number learn at a time."""
    any_watermark()
    memory.facts.ADD = replaced(memory.facts.ADD, "$11, $12, $13", "$11, $12::int + (random() * 1e9)::int, $13")
    unhurried = getattr(service.worker.main, LEARN_CONFIG)
    hurried = lambda settings: dataclasses.replace(unhurried(settings), lease_seconds=0.0001)  # noqa: E731
    setattr(service.worker.main, LEARN_CONFIG, hurried)
