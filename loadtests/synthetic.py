"""Made-up people, what they say, and accounts for them: no corpus, no network, the same for the same seed."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import asyncpg
from uuid_utils.compat import uuid7

from loadtests.topology import Topology
from service.auth.config import OWN_ISSUER
from service.principal import derive_user_id

WHO = (
    "my sister",
    "my neighbour",
    "Tom",
    "my boss",
    "Grandma",
    "Priya",
    "the new colleague",
    "my flatmate",
    "Jonas",
    "Aunt Rosa",
)
DID = (
    "forgot",
    "finally found",
    "sold",
    "painted",
    "repaired",
    "dreamt about",
    "talked about",
    "lost",
    "bought",
    "gave me",
)
WHAT = (
    "the old bicycle", "a blue teapot", "the train tickets", "that recipe for plum cake", "a letter from Lisbon",
    "the garden shed", "her violin", "a stray cat", "the camping stove", "his notebook", "the keys to the boat", "a jar of honey",
)  # fmt: skip
WHEN = (
    "on Monday",
    "last weekend",
    "this morning",
    "in March",
    "two weeks ago",
    "before dinner",
    "on the way home",
    "at the lake",
)
FEELS = ("glad", "a bit sad", "tired", "curious", "proud", "nervous", "relieved", "annoyed", "hopeful", "thankful")
ASK = (
    "Do you remember what I said about it?",
    "What would you have done?",
    "Tell me something that takes my mind off it.",
    "Should I call them?",
    "Have I told you this before?",
)
COMPANION = (
    "That sounds like quite a day.",
    "I am here for it.",
    "I would have loved to see that.",
    "Tell me how it goes on.",
)


class Teller:
    """Sentences of a chat, some thousands of different ones, with names, times and numbers that come back."""

    def __init__(self, seed: int = 7) -> None:
        self._chance = random.Random(seed)

    def said(self) -> str:
        pick = self._chance.choice
        text = f"{pick(WHO).capitalize()} {pick(DID)} {pick(WHAT)} {pick(WHEN)}, and I am {pick(FEELS)}."
        if self._chance.random() < 0.3:
            text += f" It was {self._chance.randint(2, 90)} euros."
        return f"{text} {pick(ASK)}" if self._chance.random() < 0.4 else text

    def answered(self) -> str:
        pick = self._chance.choice
        return f"{pick(COMPANION)} {pick(WHO).capitalize()} and {pick(WHAT)}: who would have thought? I am {pick(FEELS)} for you."


@dataclass(frozen=True, slots=True)
class Person:
    """A user with one conversation."""

    subject: str
    user_id: UUID
    conversation_id: UUID


def people(count: int, prefix: str = "load") -> list[Person]:
    return [Person(f"{prefix}-{n}", derive_user_id(OWN_ISSUER, f"{prefix}-{n}"), uuid7()) for n in range(count)]


async def settle(topology: Topology, persons: Sequence[Person]) -> None:
    """Put users and their conversations into the database, as their first request would have done."""
    connection = await asyncpg.connect(topology.postgres.url("rapport", superuser=True))
    try:
        async with connection.transaction():
            await connection.copy_records_to_table(
                "users",
                columns=["user_id", "issuer", "subject"],
                records=[(person.user_id, OWN_ISSUER, person.subject) for person in persons],
            )
            await connection.copy_records_to_table(
                "conversations",
                columns=["user_id", "id", "route", "companion_name"],
                records=[(person.user_id, person.conversation_id, "general", "Mel") for person in persons],
            )
        await connection.execute("ANALYZE users, conversations")
    finally:
        await connection.close()


def write_users(path: Path, topology: Topology, persons: Sequence[Person]) -> None:
    """For the client in C: a conversation and a token a line."""
    lines = (f"{person.conversation_id} {topology.token(person.subject)}\n" for person in persons)
    path.write_text("".join(lines), encoding="utf-8")


def write_says(path: Path, count: int = 2000) -> None:
    teller = Teller()
    path.write_text("".join(f"{teller.said()}\n" for _ in range(count)), encoding="utf-8")
