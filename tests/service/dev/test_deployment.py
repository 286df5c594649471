"""compose.yaml, the Dockerfile and nginx.conf, as far as they can be checked without a container engine."""

import http.client
import json
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from service.cli import app
from service.dev.children import free_port
from service.settings import Settings

ROOT = Path(__file__).parents[3]
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/usr/local/sbin:/usr/local/bin:/opt/homebrew/bin")
OURS = {"migrate", "api", "worker", "scheduler"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return loaded


def test_the_parts_are_there(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert set(services) == OURS | {"nginx", "postgres", "redis", "queue"}
    assert services["api"]["deploy"]["replicas"] == 2
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            assert needed in services, f"{name} waits for {needed}, which isn't there"


def test_every_command_exists(compose: dict[str, Any]) -> None:
    group = typer.main.get_command(app)
    for name in OURS:
        command: Any = group
        for word in compose["services"][name]["command"]:
            assert word in command.commands, f"{name} runs `rapport {word}`"
            command = command.commands[word]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert 'ENTRYPOINT ["rapport"]' in dockerfile
    assert 'CMD ["serve"]' in dockerfile


def test_every_variable_is_a_setting(compose: dict[str, Any]) -> None:
    known = {field.alias for field in Settings.model_fields.values()}
    for name in OURS:
        for variable in compose["services"][name]["environment"]:
            assert variable in known, f"{name} sets {variable}, which nothing reads"
    in_image = re.findall(r"\b(RAPPORT_[A-Z_]+)=", (ROOT / "Dockerfile").read_text())
    assert set(in_image) <= known


def test_what_the_image_copies_is_there() -> None:
    for line in re.findall(r"^COPY (?!--from)(.+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), f"the Dockerfile copies {source}"


def test_what_is_mounted_is_there(compose: dict[str, Any]) -> None:
    mounts = [m for s in compose["services"].values() for m in s.get("volumes", ()) if m.startswith("./")]
    assert len(mounts) == 2
    for mount in mounts:
        assert (ROOT / mount.split(":")[0]).exists(), mount


def test_connections_fit(compose: dict[str, Any]) -> None:
    """2 instances, worker and scheduler, each with pool and overflow, below PostgreSQL's limit."""
    services = compose["services"]
    environment = services["api"]["environment"]
    each = int(environment["POSTGRES_POOL_SIZE"]) + int(environment["POSTGRES_MAX_OVERFLOW"])
    options = " ".join(services["postgres"]["command"])
    allowed = int(re.findall(r"max_connections=(\d+)", options)[0])
    assert (services["api"]["deploy"]["replicas"] + 2) * each < allowed


class Upstream(BaseHTTPRequestHandler):
    """Answers like an instance: a stream whose second half waits to be let go, or what it was asked with."""

    protocol_version = "HTTP/1.1"
    second_half = threading.Event()

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self._chunk(b"id: 1-1\ndata: first\n\n")
        if self.second_half.wait(10):
            self._chunk(b"id: 1-2\ndata: second\n\n")
        self._chunk(b"")

    def do_POST(self) -> None:
        length = int(self.headers["Content-Length"])
        self.rfile.read(length)
        body = json.dumps({"length": length, "forwarded": self.headers["X-Forwarded-For"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Not into the tests' output."""


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    Upstream.second_half.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Upstream)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    Upstream.second_half.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def proxy(upstream: ThreadingHTTPServer, tmp_path: Path) -> Iterator[int]:
    """Our nginx.conf, with what only a compose network has replaced: its resolver, its names, port 80."""
    if NGINX is None:
        pytest.skip("nginx is not installed (.ci/run installs it)")
    port = free_port()
    text = (ROOT / "deploy" / "nginx.conf").read_text()
    text = text.replace("server api:8000 resolve", f"server 127.0.0.1:{upstream.server_port}").replace(
        "listen 80;", f"listen 127.0.0.1:{port};"
    )
    text = text.replace(
        "worker_processes auto;", f"daemon off; pid {tmp_path}/nginx.pid; error_log {tmp_path}/error.log;"
    )
    folders = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", f"http {{ access_log off; {folders}").replace("worker_rlimit_nofile 65536;", "")
    text = text.replace("worker_connections 16384", "worker_connections 256")
    config = tmp_path / "nginx.conf"
    config.write_text(f"user {Path.home().owner()};\n{text}")
    process = subprocess.Popen([NGINX, "-c", str(config), "-e", str(tmp_path / "error.log")])
    try:
        _await_port(port, process, tmp_path / "error.log")
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _await_port(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    pytest.fail(f"nginx did not start:\n{log.read_text()}")


def test_nginx_passes_events_on_as_they_come(proxy: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", proxy, timeout=10)
    connection.request("GET", "/v1/conversations/1/turns/2/stream")
    answer = connection.getresponse()
    assert answer.read1(1000) == b"id: 1-1\ndata: first\n\n"  # the instance is still holding the rest back
    Upstream.second_half.set()
    assert answer.read() == b"id: 1-2\ndata: second\n\n"
    connection.close()


def test_nginx_believes_no_forged_address(proxy: int) -> None:
    answer = _post(proxy, "/v1/conversations", b"{}", {"X-Forwarded-For": "203.0.113.7"})
    assert json.loads(answer[1])["forwarded"] == "127.0.0.1"


def test_nginx_takes_large_imports_and_refuses_other_large_bodies_as_a_problem(proxy: int) -> None:
    large = b"x" * 3_000_000
    assert json.loads(_post(proxy, "/v1/conversations/import?format=rapport", large, {})[1])["length"] == len(large)
    status, body = _post(proxy, "/v1/conversations", large, {})
    assert (status, json.loads(body)["code"]) == (413, "too_large")


def test_nginx_keeps_the_metrics_inside(proxy: int) -> None:
    assert _post(proxy, "/metrics", b"", {})[0] == 404


def test_nginx_says_that_nobody_is_there_as_a_problem(proxy: int, upstream: ThreadingHTTPServer) -> None:
    upstream.shutdown()
    upstream.server_close()
    status, body = _post(proxy, "/v1/conversations", b"{}", {})
    assert (status, json.loads(body)["code"]) == (503, "unavailable")


def _post(port: int, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", path, body, headers)
    answer = connection.getresponse()
    result = answer.status, answer.read()
    connection.close()
    return result
