"""Somebody who talks with a companion: thinks, writes, reads the reply as it comes, and checks it."""

import json
import random
import secrets
import time
from collections.abc import Mapping
from typing import Any, ClassVar

import requests
from locust import HttpUser
from locust.exception import StopUser

from loadtests.settings import SignIn, think_seconds
from loadtests.streams import Reply, StreamError, events
from loadtests.synthetic import Teller

MOST_RESUMES = 10
KNOWN_CONVERSATIONS: list[str] = []
"""Of all users of this process, for those who try whether they can read other people's."""


class Person(HttpUser):
    """The acts that every kind of user is made of. Streams are told as entries of type SSE."""

    abstract = True
    sign_in: ClassVar[SignIn | None] = None
    """One for all users of the process."""
    teller: ClassVar[Teller] = Teller(seed=11)

    conversation: str = ""
    subject: str = ""
    last_reply: Reply | None = None

    def wait_time(self) -> float:
        return random.uniform(*think_seconds(self.environment.parsed_options))

    def on_start(self) -> None:
        self.come_in()

    # --- who they are

    def come_in(self) -> None:
        """Sign in as `subject`, or as somebody new."""
        if Person.sign_in is None:
            Person.sign_in = SignIn(self.environment.parsed_options)
        token = Person.sign_in.token(self.subject)
        if token is None:
            token = self._anonymous()
        self.client.cookies.clear()
        self.client.headers["Authorization"] = f"Bearer {token}"

    def _anonymous(self) -> str:
        self.client.headers.pop("Authorization", None)
        with self.client.post("/v1/session", name="session", catch_response=True) as answer:
            token: str | None = answer.cookies.get("rapport_session")
            if answer.status_code != 200 or not token:
                answer.failure(f"no anonymous session: status {answer.status_code}")
                raise StopUser
            return token

    def begin(self) -> None:
        """Start a conversation."""
        body = {"companion": {"name": "Mel", "persona": "You are Mel, an old friend who paints."}}
        with self.client.post(
            "/v1/conversations", json=body, name="start a conversation", catch_response=True
        ) as answer:
            if answer.status_code != 201:
                answer.failure(f"status {answer.status_code}: {_code(answer)}")
                raise StopUser
            self.conversation = answer.json()["id"]
        KNOWN_CONVERSATIONS.append(self.conversation)
        del KNOWN_CONVERSATIONS[:-500]

    # --- talking

    def talk(self, *, stop: bool = False) -> Reply | None:
        """Say something and read the reply to its end, or until it is enough (`stop`)."""
        message = {"content": self.teller.said(), "client_message_id": secrets.token_hex(8)}
        breaks = random.random() < self.environment.parsed_options.breaks
        return self.stream(
            f"/v1/conversations/{self.conversation}/turns", message, name="turn", breaks=breaks, stop=stop
        )

    def regenerate(self) -> None:
        """Ask for another reply to the last message."""
        if self.last_reply is not None and self.last_reply.message_id:
            path = f"/v1/conversations/{self.conversation}/messages/{self.last_reply.message_id}/alternatives"
            self.stream(path, {}, name="regenerate")

    def stream(
        self, path: str, body: Mapping[str, Any], *, name: str, breaks: bool = False, stop: bool = False
    ) -> Reply | None:
        """Post, and read the reply; on a lost connection come back on another, with the last event's id."""
        reply = Reply()
        if not self._read("POST", path, reply, name=name, breaks=breaks, stop=stop, json=body):
            return None
        for _ in range(MOST_RESUMES):
            if reply.ended or not reply.turn_id:
                break
            reply.left()
            time.sleep(random.uniform(0.05, 1.0))
            again = f"/v1/conversations/{self.conversation}/turns/{reply.turn_id}/stream"
            if not self._read("GET", again, reply, name="come back", headers={"Last-Event-ID": reply.after}):
                break
        self._tell(reply, stopped=stop)
        self.last_reply = reply
        return reply

    def _read(
        self,
        method: str,
        path: str,
        reply: Reply,
        *,
        name: str,
        breaks: bool = False,
        stop: bool = False,
        **options: Any,
    ) -> bool:
        """Read one connection's part of a reply; False when it could not be had at all."""
        with self.client.request(
            method, path, name=name, stream=True, catch_response=True, timeout=120, **options
        ) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}: {_code(answer)}")
                return False
            shown, enough = 0, random.randint(2, 12)
            try:
                for event_id, kind, data in events(answer.iter_lines(chunk_size=None)):
                    reply.take(event_id, kind, data)
                    shown += kind == "reply.delta"
                    if breaks and shown >= enough:
                        break
                    if stop and shown >= enough:
                        stop = False
                        self._stop(reply)
            except StreamError as error:
                answer.failure(str(error))
                return False
            except requests.RequestException:
                pass  # a connection that was cut is no failure of the reply: the next one goes on with it
            answer.success()
            return True

    def _stop(self, reply: Reply) -> None:
        self.client.post(f"/v1/conversations/{self.conversation}/turns/{reply.turn_id}/stop", name="stop")

    def _tell(self, reply: Reply, *, stopped: bool) -> None:
        """Report what no HTTP figure shows: first token, gaps, and whether the stored reply is whole and the shown one."""
        stats = self.environment.stats
        if reply.first_token is not None:
            self._entry("first token", reply.first_token)
        for gap in reply.gaps:
            stats.log_request("SSE", "gap between tokens", round(gap * 1000), 0)
        whole = time.perf_counter() - reply.began
        wrong: Exception | None = None
        try:
            reply.check()
            if stopped or random.random() < 0.2:
                self._compare(reply)
        except StreamError as error:
            wrong = error
        self._entry("stopped reply" if stopped else "whole reply", whole, len(reply.text), wrong)

    def _compare(self, reply: Reply) -> None:
        path = f"/v1/conversations/{self.conversation}/turns/{reply.turn_id}"
        with self.client.get(path, name="turn as stored", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"status {answer.status_code}: {_code(answer)}")
            elif answer.json()["text"] != reply.text:
                raise StreamError("the stored reply is not the one that was shown")

    def _entry(self, name: str, seconds: float, length: int = 0, wrong: Exception | None = None) -> None:
        self.environment.events.request.fire(
            request_type="SSE",
            name=name,
            response_time=seconds * 1000,
            response_length=length,
            exception=wrong,
            context={},
        )


def _code(answer: Any) -> str:
    """The problem's stable code."""
    try:
        return str(answer.json().get("code", ""))
    except (json.JSONDecodeError, requests.RequestException, AttributeError):
        return ""
