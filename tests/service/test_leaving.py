"""An instance that was told to go serves whom it lets in and refuses the rest: nobody is reset in between."""

import signal
import socket
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.fixtures.service import LiveService
from tests.streams import read

ASKERS = 8
REQUEST = b"GET /health/live HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


def ask_until_refused(port: int) -> Counter[str]:
    """A new connection for every request."""
    told: Counter[str] = Counter()
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(REQUEST)
                answer = b"".join(iter(lambda: connection.recv(4096), b""))
        except ConnectionRefusedError:
            return told
        except OSError as error:
            told[type(error).__name__] += 1
        else:
            told["whole" if answer.startswith(b"HTTP/1.1 200") and b"alive" in answer else repr(answer[:40])] += 1


def test_whoever_connects_is_served_or_refused(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(PROXY_IDLE_SECONDS="3")
    for _ in range(3):
        process = service.start()
        with httpx.Client(base_url=process.url) as kept, ThreadPoolExecutor(ASKERS) as pool:
            assert kept.get("/health/live").headers.get("connection") != "close"
            asking = [pool.submit(ask_until_refused, process.port) for _ in range(ASKERS)]
            time.sleep(0.3)
            process.kill(signal.SIGTERM)
            told = sum((each.result() for each in asking), Counter[str]())
            # nobody is let in any more, and who was is served, once, however it was told
            last = kept.get("/health/live")
            assert (last.status_code, last.headers["connection"]) == (200, "close")
        assert told.keys() == {"whole"}, told
        assert told["whole"] > 5 * ASKERS
        assert process.process is not None
        assert process.process.wait(15) == 0


def test_a_message_over_a_kept_connection_is_taken_and_answered(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(PROXY_IDLE_SECONDS="3")
    process = service.start()
    with httpx.Client(base_url=process.url, headers=service.headers("ana"), timeout=30) as client:
        path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}"
        process.kill(signal.SIGTERM)
        ask_until_refused(process.port)
        with client.stream("POST", f"{path}/turns", json={"content": "Hello"}) as response:
            assert response.status_code == 200
            assert read(response).kinds[-1] == "turn.completed"
    assert process.process is not None
    assert process.process.wait(15) == 0


def test_it_is_not_ready_first_and_serves_until_balancers_know(service_factory: Callable[..., LiveService]) -> None:
    service = service_factory(LEAVE_NOTICE_SECONDS="3")
    process = service.start()
    process.kill(signal.SIGTERM)
    deadline = time.monotonic() + 2
    while (ready := httpx.get(f"{process.url}/health/ready")).status_code == 200:
        assert time.monotonic() < deadline
    assert (ready.status_code, ready.json()["status"]) == (503, "draining")
    headers = service.headers("ana")
    conversation = httpx.post(f"{process.url}/v1/conversations", json={}, headers=headers).json()["id"]
    url = f"{process.url}/v1/conversations/{conversation}/turns"
    with httpx.stream("POST", url, json={"content": "Hello"}, headers=headers, timeout=30) as response:
        assert read(response).kinds[-1] == "turn.completed"
    assert ask_until_refused(process.port).keys() <= {"whole"}
    assert process.process is not None
    assert process.process.wait(15) == 0
