"""Behind nginx, under load: three instances get SIGTERM in turn, or die, and no request fails and no reply is cut."""

import json
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Lock
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.nginx import NGINX, in_front_of
from tests.fixtures.service import LiveService
from tests.streams import read

TALKERS, LOOKERS = 4, 2
WHOLE = " ".join(str(number) for number in range(1, 81))


@dataclass
class Load:
    """People who talk all the time, each in a conversation of their own; what they were told, and what broke."""

    whole: int = 0
    looked: int = 0
    refused: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    lock: Lock = field(default_factory=Lock)

    def talk(self, service: LiveService, url: str, ended: Event) -> None:
        headers = service.headers(f"user-{uuid4()}")
        with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
            path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
            while not ended.is_set():
                message = {"content": "Count", "backend": "slow", "client_message_id": str(uuid4())}
                while not self.say(client, path, message):
                    time.sleep(0.1)

    def say(self, client: httpx.Client, path: str, message: dict[str, str]) -> bool:
        """False when the message was declined before it was taken: it is sent again, as clients do."""
        try:
            with client.stream("POST", f"{path}/turns", json=message) as response:
                if response.status_code != 200:
                    problem = json.loads(response.read())
                    self.note(self.refused, f"{response.status_code} {problem['code']}")
                    return False
                bubble = read(response)
        except httpx.HTTPError as error:
            self.note(self.cut, type(error).__name__)
            return True
        # on a starved machine Redis may seem away for a moment, and the text is given once more as a whole: no cut
        right = (bubble.text, bubble.repeated, bubble.kinds[-1]) == (WHOLE, 0, "turn.completed")
        if right and "turn.taken_over" not in bubble.kinds:
            with self.lock:
                self.whole += 1
        else:
            self.note(self.cut, f"{bubble.kinds[-3:]} …{bubble.text[-40:]}")
        return True

    def look(self, service: LiveService, url: str, ended: Event) -> None:
        """Begin conversations and read them, over connections that nginx keeps or makes anew."""
        while not ended.wait(0.05):
            # somebody else each time: one user's requests are limited, which a quick machine comes to
            headers = service.headers(f"user-{uuid4()}")
            with httpx.Client(base_url=url, headers=headers, timeout=30) as client:
                for method, path in (
                    ("POST", "/v1/conversations"),
                    ("GET", "/v1/conversations"),
                    ("GET", "/v1/memories"),
                ):
                    try:
                        answer = client.request(method, path, json={} if method == "POST" else None)
                    except httpx.HTTPError as error:
                        self.note(self.refused, f"{method} {path}: {type(error).__name__}")
                        continue
                    if answer.status_code in (200, 201):
                        with self.lock:
                            self.looked += 1
                    else:
                        self.note(self.refused, f"{method} {path}: {answer.status_code} {answer.text[:80]}")

    def note(self, where: list[str], what: str) -> None:
        with self.lock:
            where.append(what)


@contextmanager
def talking(service: LiveService, url: str) -> Iterator[Load]:
    load, ended = Load(), Event()
    with ThreadPoolExecutor(TALKERS + LOOKERS) as pool:
        talkers = [pool.submit(load.talk, service, url, ended) for _ in range(TALKERS)]
        talkers += [pool.submit(load.look, service, url, ended) for _ in range(LOOKERS)]
        try:
            yield load
        finally:
            ended.set()
        for talker in talkers:
            talker.result()


@pytest.mark.timeout(240)
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (.ci/run installs it)")
def test_a_rolling_restart_fails_no_request(service_factory: Callable[..., LiveService], tmp_path: Path) -> None:
    service = service_factory(
        PROXY_IDLE_SECONDS="5", LEAVE_NOTICE_SECONDS="0.5", RATE_LIMIT_REQUESTS_PER_MINUTE="100000"
    )
    instances = [service.start(wait=False) for _ in range(3)]
    for process in instances:
        process.wait()
    with (
        in_front_of([process.port for process in instances], tmp_path) as port,
        talking(service, f"http://127.0.0.1:{port}") as load,
    ):
        for process in instances:
            before = load.whole
            while load.whole < before + 2:
                time.sleep(0.05)
            assert process.end(30) == 0
            process.start()
            process.wait()
    print(
        f"\n3 instances restarted in turn: {load.whole} replies whole, {load.looked} other requests, "
        f"{len(load.cut)} cut, {len(load.refused)} failed"
    )
    assert load.cut == []
    assert load.refused == []
    assert load.whole >= 6
    assert load.looked >= 20


@pytest.mark.faults
@pytest.mark.timeout(240)
@pytest.mark.skipif(NGINX is None, reason="nginx is not installed (.ci/run installs it)")
def test_a_message_that_an_instance_died_over_is_sent_once_more(
    service_factory: Callable[..., LiveService], tmp_path: Path
) -> None:
    """nginx gives it a key where its client has none: an instance that stands still takes it, and dies before it answers."""
    service = service_factory()
    instances = [service.start(wait=False) for _ in range(2)]
    for process in instances:
        process.wait()
    headers = service.headers("ana")
    with (
        in_front_of([process.port for process in instances], tmp_path) as port,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60) as client,
    ):
        paths = [f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}" for _ in range(4)]
        for process in instances:
            process.kill(signal.SIGSTOP)
        with ThreadPoolExecutor(4) as pool:
            # both have some of them; what waits in the queue of one that dies is all that it ever knew
            saying = [
                pool.submit(client.post, f"{path}/turns", json={"content": "Hello"}, timeout=60) for path in paths
            ]
            time.sleep(0.5)
            instances[1].kill(signal.SIGCONT)
            instances[0].kill()
            answers = [each.result() for each in saying]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert all("event: turn.completed" in answer.text for answer in answers)
        for path in paths:
            said = client.get(f"{path}/messages").json()["items"]
            assert [message["role"] for message in said] == ["user", "assistant"]
