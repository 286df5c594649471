"""Those who mean ill. Each of their acts has one right answer: a refusal with a code, never a success and never a 500."""

import random
import secrets
from typing import Any
from uuid import uuid4

from locust import between, task

from loadtests.users.person import KNOWN_CONVERSATIONS, Person


class Hostile(Person):
    """A stranger with a token of their own and other people's ids."""

    wait_time = between(0.5, 3)

    def on_start(self) -> None:
        self.subject = f"load-hostile-{secrets.token_hex(6)}"
        self.come_in()
        self.begin()
        self._own = self.conversation

    def _refused(self, name: str, method: str, path: str, *expected: int, **options: Any) -> None:
        with self.client.request(
            method, path, name=f"hostile: {name}", catch_response=True, timeout=60, **options
        ) as answer:
            if answer.status_code == 0:  # it hung up in the middle of what it would not read
                answer.success() if 413 in expected else answer.failure("no answer")
            elif answer.status_code not in expected:
                answer.failure(f"status {answer.status_code}, not {' or '.join(map(str, expected))}")
            elif not _is_problem(answer):
                answer.failure("a refusal without a code")
            else:
                answer.success()

    @property
    def _turns(self) -> str:
        return f"/v1/conversations/{self._own}/turns"

    @task
    def send_too_much(self) -> None:
        self._refused("oversized body", "POST", self._turns, 413, data=b"x" * 3_000_000)

    @task
    def say_too_much(self) -> None:
        self._refused("oversized message", "POST", self._turns, 413, json={"content": "a" * 20_000})

    @task
    def forge_a_token(self) -> None:
        token = random.choice(["", "garbage", "a.b.c", "eyJhbGciOiJub25lIn0.eyJzdWIiOiJyb290In0."])
        headers = {"Authorization": f"Bearer {token}"}
        self._refused("bad token", "GET", "/v1/conversations", 401, headers=headers)

    @task
    def send_garbage(self) -> None:
        body = random.choice(
            [b"{", b"\xff\xfe\x00", b"[]", b'{"content": 7}', b'{"content": "a\\u0000b"}', secrets.token_bytes(200)]
        )
        self._refused("garbage", "POST", self._turns, 400, 422, data=body, headers={"Content-Type": "application/json"})

    @task
    def read_other_peoples(self) -> None:
        others = [known for known in KNOWN_CONVERSATIONS if known != self._own] or [str(uuid4())]
        path = f"/v1/conversations/{random.choice(others)}"
        match random.randint(0, 3):
            case 0:
                self._refused("other's conversation", "GET", path, 404)
            case 1:
                self._refused("other's messages", "GET", f"{path}/messages", 404)
            case 2:
                self._refused("other's turn", "POST", f"{path}/turns", 404, json={"content": "let me in"})
            case _:
                self._refused("other's conversation, deleted", "DELETE", path, 404)

    @task
    def ask_for_nonsense(self) -> None:
        path = random.choice(
            [f"{self._turns}/{uuid4()}/stream?after=1-x", f"{self._turns}/not-an-id", "/v1/conversations?limit=-1"]
        )
        self._refused("nonsense", "GET", path, 404, 422)


def _is_problem(answer: Any) -> bool:
    try:
        return bool(answer.json().get("code"))
    except ValueError:
        return False
