"""What was found at the end, by looking at the database as a superuser and at the observer's book."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import asyncpg

from tests.faults.clients import Observer, Told
from tests.faults.world import World

DRAIN_SECONDS = 60.0
LONG_GAP = 10.0
"""Seconds without an event that are worth being told apart."""


@dataclass
class Verdict:
    """Every list names what broke an invariant; an empty one is what is wanted."""

    acknowledged: int = 0
    turns: int = 0
    completed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    takeovers: int = 0
    replies_taken_over: int = 0
    zombies: int = 0
    rebased: int = 0
    taken_back: Counter[str] = field(default_factory=Counter)
    """Text that had been shown and was taken back, by the event that said so."""
    lost: list[str] = field(default_factory=list)
    """Acknowledged, and not in the transcript as it was said."""
    repeated: list[str] = field(default_factory=list)
    """Shown twice, or shown otherwise than it was stored."""
    twice: list[str] = field(default_factory=list)
    """Done twice: stored, answered or learnt from."""
    unlearnt: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)
    disorder: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    drained: float | None = None
    gaps: dict[str, list[float]] = field(default_factory=dict)
    """Seconds that readers of replies that were taken over saw nothing, by what else was away then."""
    long_gaps: list[str] = field(default_factory=list)
    """What was away during the longest of them."""

    @property
    def broken(self) -> dict[str, list[str]]:
        named = {
            "lost": self.lost,
            "repeated": self.repeated,
            "twice": self.twice,
            "unlearnt": self.unlearnt,
            "unfinished": self.unfinished,
            "disorder": self.disorder,
            "foreign": self.foreign,
            "not drained": [] if self.drained is not None else ["work was left over"],
        }
        return {name: found for name, found in named.items() if found}

    def summary(self) -> str:
        return (
            "; ".join(f"{name}: {len(found)} ({found[0]})" for name, found in self.broken.items()) or "nothing broken"
        )


async def drain(world: World, seconds: float) -> float | None:
    """Seconds until nothing is left to do; None when that takes too long."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        try:
            connection = await asyncpg.connect(world.postgres.url("rapport", superuser=True), timeout=2)
            try:
                left = await connection.fetchval(
                    """SELECT (SELECT count(*) FROM turns WHERE status = 'running')
                    + (SELECT count(*) FROM conversations WHERE learnt_seq < next_seq - 1) + (SELECT count(*) FROM outbox)"""
                )
            finally:
                await connection.close()
            if left == 0:
                return time.monotonic() - began
        except (OSError, asyncpg.PostgresError, TimeoutError):
            pass
        await asyncio.sleep(0.2)
    return None


async def judge(world: World, observer: Observer, drain_seconds: float = DRAIN_SECONDS) -> Verdict:
    """Hold the database against the book. Call it when everything is quiet."""
    verdict = Verdict()
    verdict.drained = await drain(world, drain_seconds)
    connection = await asyncpg.connect(world.postgres.url("rapport", superuser=True), timeout=10)
    try:
        turns = await connection.fetch("SELECT * FROM turns")
        conversations = await connection.fetch("SELECT id, next_seq, learnt_seq FROM conversations")
        facts = await connection.fetch(
            "SELECT f.conversation_id, s.seq FROM facts f JOIN fact_sources s ON s.user_id = f.user_id AND s.fact_id = f.id"
        )
        quarantined = await connection.fetch("SELECT * FROM quarantine")
    finally:
        await connection.close()
    messages = await transcripts(world, observer)
    verdict.acknowledged = len(observer.acknowledged)
    verdict.zombies = world.tally()["zombie"]
    of_book(verdict, observer)
    of_readers(verdict, observer, world)
    of_transcript(verdict, observer, messages)
    of_turns(verdict, messages, turns)
    of_learning(verdict, messages, conversations, facts)
    await of_canaries(verdict, world)
    verdict.unlearnt += [
        f"quarantined {row['conversation_id']} {row['from_seq']}: {row['reason']}" for row in quarantined
    ]
    return verdict


async def transcripts(world: World, observer: Observer) -> list[Any]:
    """Every conversation as its owner reads it now."""
    messages: list[Any] = []
    for conversation, user in {told.conversation: told.user for told in observer.told}.items():
        headers = {"Authorization": f"Bearer {world.token(user)}"}
        last = 0
        while True:
            url = f"{world.serving()[0].url}/v1/conversations/{conversation}/messages?limit=200&after={last}"
            async with world.session.get(url, headers=headers) as answer:
                answer.raise_for_status()
                page = (await answer.json())["items"]
            messages += [{**item, "conversation_id": conversation} for item in page]
            if not page:
                break
            last = page[-1]["seq"]
    return messages


async def of_canaries(verdict: Verdict, world: World) -> None:
    """What users said must stand in nobody else's prompt, and in no log and no metric at all."""
    async with world.session.get(f"{world.parts['upstream'].url}/prompts") as answer:
        prompts = await answer.json()
    if prompts.get("of several users") or not prompts.get("canaries"):
        verdict.foreign.append(f"prompts: {prompts}")
    for name, part in world.parts.items():
        if part.log.exists() and b"canary-" in part.log.read_bytes():
            verdict.foreign.append(f"a canary in the log of {name}")
    for part in world.serving():
        async with world.session.get(f"{part.url}/metrics") as answer:
            if "canary-" in await answer.text():
                verdict.foreign.append(f"a canary in the metrics of {part.url}")


def of_book(verdict: Verdict, observer: Observer) -> None:
    for told in observer.told:
        name = f"{told.client_message_id} ({told.turn or 'not acknowledged'})"
        for wrong in told.wrong:
            (verdict.foreign if "foreign" in wrong else verdict.repeated).append(f"{name}: {wrong}")
        if told.gone:
            verdict.lost.append(f"{name}: nobody knows its turn any more, after {told.bubble.last}")
        elif told.acknowledged and not told.ended:
            verdict.unfinished.append(f"{name}: stopped at {told.bubble.last}, {told.bubble.text[-30:]!r}")
        if told.failure:
            verdict.failed[told.failure] += 1
        elif told.ended and told.bubble.text != told.expected:
            verdict.repeated.append(f"{name}: ended as …{told.bubble.text[-60:]!r}")
        if told.second is not None and told.ended and told.second != told.bubble.text:
            verdict.repeated.append(f"{name}: a second reader had …{told.second[-60:]!r}")
        verdict.rebased += told.bubble.rebased > 0


def of_readers(verdict: Verdict, observer: Observer, world: World) -> None:
    """How long readers saw nothing at a take-over, and what they saw taken back."""
    for told in observer.told:
        verdict.taken_back.update(told.taken_back)
        for began, ended in told.gaps:
            verdict.gaps.setdefault(world.absences.during(began, ended), []).append(ended - began)
            if ended - began > LONG_GAP:
                verdict.long_gaps.append(
                    f"{ended - began:.1f} s before {told.turn} went on: {', '.join(world.absences.names(began, ended)) or 'only kills'}"
                )


def of_transcript(verdict: Verdict, observer: Observer, messages: list[Any]) -> None:
    stored = {str(row["id"]): row for row in messages}
    said = Counter((row["conversation_id"], row["content"]) for row in messages if row["role"] == "user")
    last: dict[str, tuple[int, Told]] = {}
    for told in observer.acknowledged:
        row = stored.get(told.message)
        if row is None or (row["content"], row["role"], row["seq"]) != (told.content, "user", told.seq):
            verdict.lost.append(f"message {told.message}: {told.content}")
        if told.reply and ((row := stored.get(told.reply)) is None or row["content"] != told.bubble.text):
            verdict.lost.append(
                f"reply {told.reply} of {told.turn}: stored {row and row['content'][-60:]!r}, shown {told.bubble.text[-60:]!r}"
            )
        before = last.get(told.conversation)
        if before and before[0] >= told.seq:
            verdict.disorder.append(
                f"{told.client_message_id} ({told.seq}) after {before[1].client_message_id} ({before[0]})"
            )
        last[told.conversation] = (told.seq, told)
    verdict.twice += [f"stored {count} times: {content}" for (_, content), count in said.items() if count > 1]
    owners = {told.conversation: told.user for told in observer.told}
    for row in messages:
        owner = owners.get(row["conversation_id"])
        if owner and f"{owner}x" not in row["content"]:
            verdict.foreign.append(f"{row['content'][:80]!r} in a conversation of {owner}")


def of_turns(verdict: Verdict, messages: list[Any], turns: list[Any]) -> None:
    verdict.turns = len(turns)
    verdict.completed = sum(row["status"] == "completed" for row in turns)
    verdict.takeovers = sum(row["epoch"] - 1 for row in turns)
    verdict.replies_taken_over = sum(row["epoch"] > 1 for row in turns)
    replies = Counter(row["turn_id"] for row in messages if row["role"] == "assistant")
    for row in turns:
        wanted, stored = int(row["status"] == "completed"), replies[str(row["id"])]
        if stored > wanted:
            verdict.twice.append(f"turn {row['id']} ({row['status']}) has {stored} replies")
        elif stored < wanted:
            told = f"epoch {row['epoch']}, {row['finish_reason']} by {row['backend']}, reply {row['reply_message_id']}"
            verdict.lost.append(f"turn {row['id']} is completed without a reply: {told}")
        if row["status"] == "running":
            verdict.unfinished.append(f"turn {row['id']} still runs, epoch {row['epoch']}")
    answered = Counter(row["user_message_id"] for row in turns)
    verdict.twice += [f"message {message} has {count} turns" for message, count in answered.items() if count > 1]


def of_learning(verdict: Verdict, messages: list[Any], conversations: list[Any], facts: list[Any]) -> None:
    learnt = Counter((str(row["conversation_id"]), row["seq"]) for row in facts)
    for row in messages:
        if row["role"] == "user":
            count = learnt[row["conversation_id"], row["seq"]]
            if count > 1:
                verdict.twice.append(f"learnt {count} times: {row['content']}")
            elif count == 0:
                verdict.unlearnt.append(f"not learnt: {row['content']}")
    seqs = Counter(row["conversation_id"] for row in messages)
    first: dict[Any, int] = {}
    for row in messages:
        first.setdefault(row["conversation_id"], row["seq"])
    for row in conversations:
        name = str(row["id"])
        if row["learnt_seq"] != row["next_seq"] - 1:
            verdict.unlearnt.append(
                f"conversation {row['id']} is learnt up to {row['learnt_seq']} of {row['next_seq'] - 1}"
            )
        if seqs[name] and first[name] + seqs[name] != row["next_seq"]:
            verdict.disorder.append(f"conversation {row['id']} has {seqs[name]} messages, next is {row['next_seq']}")
