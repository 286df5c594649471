"""The client in C notices what it is there to notice: run against a server that does everything wrong on purpose."""

import json
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from loadtests.native import NoCompilerError, Programs, build
from tests.fixtures.model import missing

TOKENS = 6


class Service(BaseHTTPRequestHandler):
    """One reply to every message, broken in the way that `fault` names."""

    protocol_version = "HTTP/1.1"
    fault: ClassVar[str] = ""
    seen: ClassVar[list[str]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        tag = re.findall(r"#tag:(\w+)#", body["content"])[-1]
        self.seen.append(f"POST {self.headers['Authorization']}")
        if self.fault == "refuse":
            self._refuse()
            return
        self._stream(self._events("stranger" if self.fault == "tag" else tag), tag)

    def do_GET(self) -> None:
        after = self.headers["Last-Event-ID"]
        self.seen.append(f"GET {self.path} {after}")
        tag = self.path.split("/")[-2]  # the turn's id is the message's tag here
        number = int(after.partition("-")[2])
        self._stream([event for event in self._events(tag) if int(event[0].partition("-")[2]) > number], tag)

    def _events(self, tag: str) -> list[tuple[str, str, dict[str, Any]]]:
        time.sleep(0.006)  # the 5 ms that the stamps tell of must have passed
        now = int(time.monotonic() * 1e6)
        words = [
            f"#{tag} tok0@{now}/{now - 5000} ",
            *(f"tok{n} " for n in range(1, TOKENS - 1)),
            f"tok{TOKENS - 1}@{now} ",
        ]
        match self.fault:
            case "lost":
                del words[3]
            case "twice":
                words.insert(3, words[2])
            case "endless":
                words.append("...")
            case "strange":
                words.insert(3, "hello ")
        made: list[tuple[str, dict[str, Any]]] = [("turn.accepted", {"turn_id": tag})]
        made += [("reply.delta", {"text": word}) for word in words]
        made.append(("turn.failed", {"code": "backend_busy"}) if self.fault == "failed" else ("turn.completed", {}))
        skipped = [0, 0, 1] if self.fault == "gap" else [0, 0, 0]
        return [(f"1-{n + (skipped[2] if n > 2 else 0)}", kind, data) for n, (kind, data) in enumerate(made)]

    def _stream(self, found: list[tuple[str, str, dict[str, Any]]], tag: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for n, (event_id, kind, data) in enumerate(found):
            if self.fault == "endless" and n == 5:
                time.sleep(3)
                return
            if self.fault == "cut" and n == 3 and self.command == "POST":
                self.close_connection = True
                return
            self._chunk(f"id: {event_id}\nevent: {kind}\ndata: {json.dumps(data)}\n\n".encode())
        self._chunk(b"")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _refuse(self) -> None:
        body = b'{"code": "rate_limited"}'
        self.send_response(429)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Not into the tests' output."""


@pytest.fixture(scope="module")
def programs() -> Programs:
    try:
        return build()
    except NoCompilerError as error:
        missing(str(error))
        raise AssertionError from error


@pytest.fixture
def port() -> Iterator[int]:
    Service.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def crowd(programs: Programs, port: int, folder: Path, fault: str, *options: str) -> dict[str, Any]:
    """Three users, two turns each."""
    Service.fault = fault
    users, says = folder / "users", folder / "says"
    users.write_text("".join(f"conversation{n} token{n}\n" for n in range(3)))
    says.write_text("Hello there.\n")
    command = [
        str(programs.people),
        "--port",
        str(port),
        "--users",
        str(users),
        "--says",
        str(says),
        "--expect",
        str(TOKENS),
    ]
    command += ["--think", "0.01-0.02", "--ramp", "0", "--turns", "2", "--seconds", "8", "--grace", "10", *options]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, check=True, timeout=30).stdout)
    return found


def test_whole_replies_are_successes(programs: Programs, port: int, tmp_path: Path) -> None:
    found = crowd(programs, port, tmp_path, "")
    assert (found["turns"], found["ok"], found["failed"], found["tokens"]) == (6, 6, 0, 6 * TOKENS)
    assert found["added_first"]["n"] == found["added_turn"]["n"] == 6
    # 5 ms passed inside the "model": they are not the service's
    assert found["first_token"]["mean"] - found["added_first"]["mean"] == pytest.approx(5, abs=0.1)
    assert {line for line in Service.seen if line.startswith("POST")} == {f"POST Bearer token{n}" for n in range(3)}


@pytest.mark.parametrize(
    ("fault", "figure"),
    [("lost", "missing"), ("twice", "repeated"), ("strange", "strange"), ("tag", "wrong_tag"), ("gap", "id_gaps")],
)
def test_what_is_wrong_with_a_stream_is_counted(
    programs: Programs, port: int, tmp_path: Path, fault: str, figure: str
) -> None:
    found = crowd(programs, port, tmp_path, fault)
    wrong = ("missing", "repeated", "strange", "wrong_tag", "id_gaps")
    assert {name: found[name] for name in wrong} == {name: 6 if name == figure else 0 for name in wrong}
    if figure != "id_gaps":
        assert found["failures"] == {"wrong_tokens": 6}


@pytest.mark.parametrize(("fault", "failure"), [("refuse", "429 rate_limited"), ("failed", "backend_busy")])
def test_a_turn_that_fails_is_told_with_its_code(
    programs: Programs, port: int, tmp_path: Path, fault: str, failure: str
) -> None:
    found = crowd(programs, port, tmp_path, fault)
    assert (found["ok"], found["failures"]) == (0, {failure: 6})


def test_a_cut_connection_is_followed_from_the_last_event(programs: Programs, port: int, tmp_path: Path) -> None:
    found = crowd(programs, port, tmp_path, "cut")
    assert (found["ok"], found["cuts"], found["resumed"], found["missing"], found["repeated"]) == (6, 6, 6, 0, 0)
    assert len([line for line in Service.seen if line.startswith("GET") and line.endswith(" 1-2")]) == 6


def test_people_who_break_off_come_back(programs: Programs, port: int, tmp_path: Path) -> None:
    found = crowd(programs, port, tmp_path, "", "--breaks", "100")
    assert (found["ok"], found["breaks"], found["resumed"], found["missing"], found["repeated"]) == (6, 6, 6, 0, 0)


def test_what_is_open_at_the_end_is_judged_by_what_came(programs: Programs, port: int, tmp_path: Path) -> None:
    options = ("--seconds", "1", "--grace", "0.2")
    held = crowd(programs, port, tmp_path, "endless", *options, "--hold", "1")
    assert (held["turns"], held["ok"], held["held"], held["added_first"]["n"]) == (3, 3, 3, 3)
    lost = crowd(programs, port, tmp_path, "endless", *options)
    assert (lost["ok"], lost["failures"]) == (0, {"unfinished": 3})


def test_nothing_but_this_machine_is_loaded(programs: Programs, tmp_path: Path) -> None:
    for name in ("users", "says"):
        (tmp_path / name).write_text("a b\n")
    command = [
        str(programs.people),
        "--host",
        "192.0.2.1",
        "--users",
        str(tmp_path / "users"),
        "--says",
        str(tmp_path / "says"),
    ]
    assert subprocess.run(command, capture_output=True, check=False, timeout=10).returncode == 2
