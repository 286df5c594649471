"""Somebody who talks with a companion: thinks, writes, reads the reply as it comes, and checks it."""

import random
import secrets
from typing import Any

from locust import HttpUser, between, task
from locust.exception import StopUser

from loadtests.settings import think_seconds, tokens
from loadtests.streams import Reply, StreamError, events

LINES = (
    "I slept badly again, the neighbours were loud.",
    "Do you remember what I told you about my sister?",
    "I have an interview on Friday and I can't stop thinking about it.",
    "What should I cook tonight?",
    "My dog Biscuit learnt a new trick.",
    "Tell me something nice.",
)
TOKENS = tokens()


class Companion(HttpUser):
    """Chats with think time; sometimes loses the connection in the middle of a reply and comes back."""

    wait_time = between(*think_seconds())
    reconnects = 0.1
    """Share of replies during which the connection breaks."""

    def on_start(self) -> None:
        self.client.headers["Authorization"] = f"Bearer {next(TOKENS)}"
        self.conversation = self._begin()

    def _begin(self) -> str:
        with self.client.post(
            "/v1/conversations", json={"companion": {"name": "Mel"}}, name="start", catch_response=True
        ) as answer:
            if answer.status_code != 201:
                answer.failure(f"status {answer.status_code}")
                raise StopUser
            conversation: str = answer.json()["id"]
            return conversation

    @task(10)
    def talk(self) -> None:
        reply = Reply()
        message = {"content": random.choice(LINES), "client_message_id": secrets.token_hex(8)}
        breaks = random.random() < self.reconnects
        turns = f"/v1/conversations/{self.conversation}/turns"
        self._read("POST", turns, reply, name="turn", breaks=breaks, json=message)
        while reply.turn_id and not reply.ended:
            after = f"{reply.last[0]}-{reply.last[1]}" if reply.last else ""
            if not self._read("GET", f"{turns}/{reply.turn_id}/stream", reply, name="resume", params={"after": after}):
                break
        self._tell(reply)

    @task(1)
    def look_back(self) -> None:
        self.client.get(f"/v1/conversations/{self.conversation}/messages", name="messages")

    @task(1)
    def look_at_memories(self) -> None:
        self.client.get("/v1/memories", name="memories")

    def _read(self, method: str, path: str, reply: Reply, *, name: str, breaks: bool = False, **options: Any) -> bool:
        """Read one stream into `reply`; False when it could not be had."""
        with self.client.request(
            method, path, name=name, stream=True, catch_response=True, timeout=120, **options
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}")
                return False
            shown = 0
            try:
                for event_id, kind, data in events(answer.iter_lines(chunk_size=None)):
                    reply.take(event_id, kind, data)
                    shown += kind == "reply.delta"
                    if breaks and shown > 2:
                        break
            except StreamError as error:
                answer.failure(str(error))
                return False
            answer.success()
            return True

    def _tell(self, reply: Reply) -> None:
        """Report what no HTTP figure shows: the first token, the gaps, and whether the stored reply is the shown one."""
        fire = self.environment.events.request.fire
        if reply.first_token is not None:
            fire(
                request_type="SSE",
                name="first token",
                response_time=reply.first_token * 1000,
                response_length=0,
                exception=None,
                context={},
            )
        if reply.gaps:
            fire(
                request_type="SSE",
                name="longest gap",
                response_time=max(reply.gaps) * 1000,
                response_length=0,
                exception=None,
                context={},
            )
        if reply.ended != "turn.completed":
            error = StreamError(f"the reply ended with {reply.ended or 'nothing'} {reply.failure}")
            fire(request_type="SSE", name="reply", response_time=0, response_length=0, exception=error, context={})
            return
        turn = self.client.get(
            f"/v1/conversations/{self.conversation}/turns/{reply.turn_id}", name="turn as stored"
        ).json()
        wrong = None if turn["text"] == reply.text else StreamError("the stored reply is not the one that was shown")
        fire(
            request_type="SSE",
            name="reply",
            response_time=0,
            response_length=len(reply.text),
            exception=wrong,
            context={},
        )
