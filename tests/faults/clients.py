"""Clients that talk all the time, and the outside observer's book: what was acknowledged, and what stood on the screen."""

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.upstream import tokens
from tests.faults.world import World
from tests.streams import Bubble

TURN_SECONDS = 90.0
"""A turn that has not ended by then counts as never ended."""
LETTERS = "aeioubdklmnprst"
AWAY = (aiohttp.ClientError, TimeoutError, OSError)
STREAM = aiohttp.ClientTimeout(total=None, connect=2.0, sock_read=20.0)


@dataclass
class Told:
    """One turn as its client lived through it."""

    user: str
    conversation: str
    content: str
    client_message_id: str
    expected: str
    turn: str = ""
    message: str = ""
    seq: int = 0
    reply: str = ""
    failure: str = ""
    ended: bool = False
    bubble: Bubble = field(default_factory=Bubble)
    gaps: list[tuple[float, float]] = field(default_factory=list)
    """From the last event before each take-over to the first one after it, as the client saw them."""
    taken_back: list[str] = field(default_factory=list)
    """Each time that text was taken back which had been shown: told by an event, but seen. What told it."""
    second: str | None = None
    """What another reader, who came later and elsewhere, had on the screen at the end."""
    gone: bool = False
    """It was acknowledged, and then nobody knew it any more."""
    wrong: list[str] = field(default_factory=list)
    began: float = 0.0
    answered: float = 0.0
    last_event: float = 0.0

    @property
    def acknowledged(self) -> bool:
        return bool(self.message)

    def take(self, event_id: str, kind: str, data: dict[str, Any]) -> None:
        """Show one event, and hold it against what must be."""
        now = time.monotonic()
        before, known = self.bubble.text, len(self.bubble.events)
        try:
            self.bubble.take(event_id, kind, data)
        except AssertionError:
            self.wrong.append(f"{event_id} {kind} keeps more than was shown")
            return
        if len(self.bubble.events) == known and self.bubble.repeated:
            self.wrong.append(f"{event_id} {kind} came again")
        epochs = [int(found.partition("-")[0]) for found, _, _ in self.bubble.events[-2:]]
        new_writer = len(epochs) == 2 and epochs[0] != epochs[1]
        if self.last_event and new_writer:
            self.gaps.append((self.last_event, now))
        self.last_event = now
        if kind == "turn.accepted":
            self.accept(data)
        elif kind == "turn.completed":
            self.reply = data["message_id"]
        elif kind == "turn.failed":
            self.failure = data["code"]
        elif kind == "memory.recalled":
            self.recalled(data)
        text = self.bubble.text
        if not self.expected.startswith(text):
            self.wrong.append(f"{event_id} {kind} shows …{text[-60:]!r}")
        if not text.startswith(before):
            told = f"{kind} {data.get('reason', '')}".strip()
            self.taken_back.append(told)
            if not new_writer:
                # a writer that lives knows all that it has shown, whatever became of the log
                self.wrong.append(f"{event_id} {told} takes back what its own writer had shown")

    def accept(self, data: dict[str, Any]) -> None:
        said = (data["turn_id"], data["message_id"], data["seq"])
        if self.acknowledged and said != (self.turn, self.message, self.seq):
            self.wrong.append(f"acknowledged as {(self.turn, self.message, self.seq)}, then as {said}")
        elif not self.acknowledged:
            self.answered = time.monotonic()
            self.turn, self.message, self.seq = said

    def recalled(self, data: dict[str, Any]) -> None:
        for item in data["items"]:
            if f"canary-{self.user}-" not in item["text"] and f"{self.user}x" not in item["text"]:
                self.wrong.append(f"foreign memory {item['text'][:80]!r}")


@dataclass
class Observer:
    """Keeps the book of all clients. It reads nothing from the service but what clients read."""

    world: World
    seed: int
    words: int = 60
    restless: float = 0.25
    """How often a reader leaves in the middle of a reply, to read on elsewhere, or another one reads along."""
    conversations: int = 2
    told: list[Told] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    """Refusals before an acknowledgement, by status and code."""
    stopping: bool = False

    async def talk(self, clients: int) -> None:
        """Let so many users talk until `stopping`, each finishing the turn that it has begun."""
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(self._client(f"user{number}"))

    @property
    def acknowledged(self) -> list[Told]:
        return [told for told in self.told if told.acknowledged]

    async def _client(self, user: str) -> None:
        chance = random.Random(f"{self.seed} {user}")
        headers = {"Authorization": f"Bearer {self.world.token(user)}"}
        conversations = [await self._conversation(chance, headers) for _ in range(self.conversations)]
        number = 0
        while not self.stopping:
            number += 1
            word = "".join(chance.choices(LETTERS, k=9))
            tag = f"{user}x{number}"
            told = Told(
                user,
                chance.choice(conversations),
                f"My canary-{user}-{word} is a secret. Now say {tag} {self.words}",
                f"{tag}-{word}",
                tokens(tag, self.words),
            )
            self.told.append(told)
            await self._turn(told, chance, headers)
            await asyncio.sleep(chance.uniform(0.0, 0.1))

    async def _conversation(self, chance: random.Random, headers: dict[str, str]) -> str:
        while True:
            try:
                url = f"{self._choose(chance)}/v1/conversations"
                async with self.world.session.post(url, json={}, headers=headers) as answer:
                    if answer.status == 201:
                        return str((await answer.json())["id"])
            except AWAY:
                pass
            await asyncio.sleep(0.1)

    def _choose(self, chance: random.Random) -> str:
        """Where a load balancer that looks at health would send the next request."""
        part = chance.choice(self.world.serving() or self.world.apis)
        return f"http://127.0.0.1:{part.front.port}"

    async def _turn(self, told: Told, chance: random.Random, headers: dict[str, str]) -> None:
        """Send until it is acknowledged, then read on, wherever, until it ends."""
        told.began = time.monotonic()
        second: asyncio.Task[None] | None = None
        while not (told.bubble.ended or told.gone) and time.monotonic() - told.began < TURN_SECONDS:
            base = f"{self._choose(chance)}/v1/conversations/{told.conversation}/turns"
            leave_at = chance.uniform(0.1, 1.5) if chance.random() < self.restless else None
            try:
                follow = self._follow(told, f"{base}/{told.turn}/stream", headers)
                await self._read(told, follow if told.acknowledged else self._post(told, base, headers), leave_at)
            except AWAY as error:
                self.answers[type(error).__name__] += 1
            if told.acknowledged and second is None and chance.random() < self.restless:
                second = asyncio.create_task(self._second_reader(told, chance, headers))
            if not told.bubble.ended:
                await asyncio.sleep(chance.uniform(0.02, 0.15))
        told.ended = told.bubble.ended
        if second is not None:
            await second

    async def _read(
        self, told: Told, stream: AsyncIterator[tuple[str, str, dict[str, Any]]], leave_at: float | None
    ) -> None:
        try:
            async with asyncio.timeout(leave_at):
                async for event_id, kind, data in stream:
                    told.take(event_id, kind, data)
                    if told.bubble.ended:
                        return
        except TimeoutError:
            return  # the reader went away; it comes back elsewhere

    async def _post(
        self, told: Told, url: str, headers: dict[str, str]
    ) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
        body = {"content": told.content, "client_message_id": told.client_message_id, "backend": "large"}
        async with self.world.session.post(url, json=body, headers=headers, timeout=STREAM) as answer:
            if answer.status != 200:
                await self._refused(told, answer)
                return
            async for event in events(answer):
                yield event

    async def _follow(
        self, told: Told, url: str, headers: dict[str, str]
    ) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
        known = {"Last-Event-ID": told.bubble.last} if told.bubble.last else {}
        async with self.world.session.get(url, headers={**headers, **known}, timeout=STREAM) as answer:
            if answer.status != 200:
                await self._refused(told, answer)
                return
            async for event in events(answer):
                yield event

    async def _refused(self, told: Told, answer: aiohttp.ClientResponse) -> None:
        try:
            code = (await answer.json(content_type=None)).get("code", "")
        except ValueError:
            code = "not json"
        self.answers[f"{answer.status} {code}"] += 1
        if answer.status == 404 and told.acknowledged:
            told.gone = True
        if answer.status == 503 and "Retry-After" not in answer.headers:
            told.wrong.append("503 without Retry-After")
        if answer.status not in {404, 409, 503}:
            told.wrong.append(f"answered {answer.status} {code}")

    async def _second_reader(self, told: Told, chance: random.Random, headers: dict[str, str]) -> None:
        """Read the same reply from its beginning, elsewhere, and put it together independently."""
        other = Told(told.user, told.conversation, told.content, "", told.expected, told.turn, told.message, told.seq)
        while not (other.bubble.ended or other.gone) and time.monotonic() - told.began < TURN_SECONDS:
            url = f"{self._choose(chance)}/v1/conversations/{told.conversation}/turns/{told.turn}/stream"
            try:
                await self._read(other, self._follow(other, url, headers), chance.choice([None, 0.5]))
            except AWAY:
                await asyncio.sleep(0.1)
        told.wrong += [f"second reader: {wrong}" for wrong in other.wrong]
        told.second = other.bubble.text if other.bubble.ended else None
        told.taken_back += other.taken_back


async def events(answer: aiohttp.ClientResponse) -> AsyncIterator[tuple[str, str, dict[str, Any]]]:
    """The events of a stream, each whole; what a cut connection leaves half is dropped."""
    event_id = kind = data = ""
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if not line and raw.endswith(b"\n"):
            if data:
                yield event_id, kind, json.loads(data)
            event_id = kind = data = ""
        elif line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("event: "):
            kind = line[7:]
        elif line.startswith("data: "):
            data = line[6:]
