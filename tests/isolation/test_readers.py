"""Five hundred readers that never read, and what the others feel of them.

They ask for a reply's stream and then take nothing, each with the smallest window that a kernel gives. Others must
have their first token within twice the time that they have it in without them.
"""

import json
import os
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.fixtures.service import LiveService
from tests.streams import frames

READERS = int(os.environ.get("NEVER_READING", "500"))
TURNS = 25
SLOWLY = {"style": "numbered", "words": 600, "word_delay": 0.25}
BACKENDS = json.dumps(
    [
        {"name": "quick", "kind": "scripted", "script": {"style": "numbered", "words": 3, "word_delay": 0.0}},
        {"name": "slow", "kind": "scripted", "script": SLOWLY},
    ]
)


def first_tokens(client: httpx.Client, turns: int) -> list[float]:
    """Seconds to the first token of so many turns, one after the other."""
    found = []
    path = f"/v1/conversations/{client.post('/v1/conversations', json={}).json()['id']}/turns"
    for number in range(turns):
        began = time.perf_counter()
        with client.stream("POST", path, json={"content": f"Hello {number}", "backend": "quick"}) as response:
            for _, kind, _ in frames(response.iter_lines()):
                if kind == "reply.delta":
                    found.append(time.perf_counter() - began)
    return found


def never_reading(service: LiveService, path: str, headers: dict[str, str]) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    made.connect(("127.0.0.1", urlsplit(service.url).port))
    fields = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    made.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{fields}\r\n".encode())
    return made


def resident(service: LiveService) -> int:
    """Bytes of memory that the instance has."""
    process = service.processes[0].process
    assert process is not None
    pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.timeout(240)
def test_others_hardly_feel_five_hundred_readers_that_never_read(
    service_factory: Callable[..., LiveService], capsys: pytest.CaptureFixture[str]
) -> None:
    service = service_factory(LLM_BACKENDS=BACKENDS)
    service.start()
    headers = service.headers("attacker")
    with (
        ExitStack() as readers,
        httpx.Client(base_url=service.url, headers=headers, timeout=60) as attacker,
        httpx.Client(base_url=service.url, headers=service.headers("somebody"), timeout=60) as other,
    ):
        first_tokens(other, 5)
        normal = first_tokens(other, TURNS)
        path = f"/v1/conversations/{attacker.post('/v1/conversations', json={}).json()['id']}/turns"
        with attacker.stream("POST", path, json={"content": "Count", "backend": "slow"}) as response:
            lines = frames(response.iter_lines())
            _, _, accepted = next(lines)
            before = resident(service)
            for _ in range(READERS):
                readers.enter_context(never_reading(service, f"{path}/{accepted['turn_id']}/stream", headers))
            metrics = ""
            deadline = time.monotonic() + 30
            while f"rapport_stream_readers {READERS + 1}.0" not in metrics and time.monotonic() < deadline:
                metrics = other.get("/metrics").text
            counted = [
                line for line in metrics.splitlines() if "readers" in line or "dropped" in line or "limited" in line
            ]
            assert f"rapport_stream_readers {READERS + 1}.0" in metrics, counted
            crowded = first_tokens(other, TURNS)
            each = (resident(service) - before) / READERS
    usual, now = statistics.median(normal), statistics.median(crowded)
    with capsys.disabled():
        print(
            f"\n{READERS} readers that never read: first token of others {usual * 1000:.1f} ms before, "
            f"{now * 1000:.1f} ms among them (medians of {TURNS}); {each / 1024:.0f} KiB each"
        )
    assert now < 2 * usual
    assert each < 300_000
