"""What `deploy/` describes, on this machine: instances of the API behind nginx, a worker, the scheduler, PostgreSQL,
Valkey, and the mock model server, each a process of its own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from loadtests.native import build
from service import migrate
from service.auth.config import AuthConfig
from service.auth.local_keys import AGE, SESSION, ensure_key, mint
from service.dev import children
from service.dev.postgres import EmbeddedPostgres
from service.dev.programs import Program
from service.dev.valkey import EmbeddedValkey

CHECKOUT = Path(__file__).parents[1]
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin:/usr/local/sbin:/opt/homebrew/bin")
READY_SECONDS = 90.0
CONCURRENCY = 10_000
"""Calls of the model server at once, for each instance: the mock has no limit, and a queue before it would be measured."""


class NoProxyError(RuntimeError):
    """nginx is not installed."""


MARK = b"#tag:"
"""Stands in every message of the crowd's."""


@dataclass(frozen=True, slots=True)
class Mock:
    """How the model server answers: like a hosted model of some size, unless said otherwise."""

    first_ms: int = 500
    between_ms: int = 25
    tokens: int = 151
    stamped: int = 10
    """Each tenth token carries its send time, and so does the last: the reply is about as long as a real one."""

    @property
    def model(self) -> str:
        return f"mock-ttft{self.first_ms}-itl{self.between_ms}-n{self.tokens}-st{self.stamped}"


@dataclass
class Topology:
    """Everything that runs, by name. Made by `running`."""

    home: Path
    instances: int
    mock: Mock
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    port: int = 0
    """Of nginx: where clients go."""
    mock_port: int = 0
    api_ports: list[int] = field(default_factory=list)
    worker_port: int = 0
    """Where the worker tells what it has learnt; 0 without one."""
    roots: dict[str, int] = field(default_factory=dict)
    """The first process of each part."""
    logs: dict[str, Path] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def auth(self) -> AuthConfig:
        return AuthConfig(self.home, embedded=True)

    def token(self, subject: str) -> str:
        return mint(self.auth, subject, timedelta(hours=12))

    def mock_stats(self) -> dict[str, Any]:
        """What the model server says of itself: streams, tokens, how late its own timers were."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.mock_port}/stats", timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def words_told(self) -> dict[str, int]:
        """How often users' marks stand where no user's words belong: in each part's log, in each instance's metrics."""
        told = {name: log.read_bytes().count(MARK) for name, log in self.logs.items() if log.exists()}
        for number, port in enumerate(self.api_ports):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
                told[f"metrics of instance {number}"] = answer.read().count(MARK)
        return {name: times for name, times in told.items() if times}

    def keep_logs(self, folder: Path) -> None:
        """Save what the parts complained of: their homes go with them."""
        for name, log in self.logs.items():
            if log.exists() and log.stat().st_size:
                folder.mkdir(parents=True, exist_ok=True)
                shutil.copy(log, folder / f"{name}.log")

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        """Settings as in compose.yaml; limits are the product's own defaults."""
        large = {
            "name": "mock",
            "kind": "openai_compatible",
            "url": f"http://127.0.0.1:{self.mock_port}/v1",
            "model": self.mock.model,
            "tier": "large",
            "continues": True,
            "context_length": 16_384,
            "max_concurrency": CONCURRENCY,
        }
        # facts are extracted by rule: a mock has nothing to say about them, and a model would cost another machine's time
        small = {"name": "learner", "kind": "scripted", "tier": "small"}
        return {
            "RAPPORT_HOME": str(self.home),
            "RAPPORT_EMBEDDED": "true",
            "RAPPORT_INSTANCES": str(self.instances),
            "DATABASE_URL": self.postgres.dsn,
            "DATABASE_REPLICA_URLS": "",
            "REDIS_URL": self.valkey.url,
            "DRAMATIQ_BROKER_URL": self.valkey.database_url(1),
            "LLM_BACKENDS": json.dumps([large, small]),
            "POSTGRES_POOL_SIZE": "20",
            "POSTGRES_MAX_OVERFLOW": "20",
            "TRUSTED_PROXIES": "127.0.0.1",
            "LOG_LEVEL": "warning",
            "DRAIN_SECONDS": "2",
            **more,
        }


@contextmanager
def running(
    *, instances: int = 3, mock: Mock | None = None, environment: Mapping[str, str] | None = None, worker: bool = True
) -> Iterator[Topology]:
    """Start everything with an empty database, wait until each instance answers, and end it all with the block."""
    if NGINX is None:
        raise NoProxyError(
            "nginx is not installed here (Debian: apt-get install nginx-light; macOS: brew install nginx)"
        )
    signal.signal(signal.SIGTERM, _leave)  # as Ctrl-C does: so that everything is cleared away
    with ExitStack() as stack:
        home = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="rapport-load-", ignore_cleanup_errors=True))
        )
        home.chmod(0o711)  # servers of root's run as another user, who passes through
        postgres = EmbeddedPostgres(home / "postgres", settings={"shared_buffers": "512MB", "max_connections": 200})
        topology = Topology(home, instances, mock or Mock(), postgres, EmbeddedValkey(home / "valkey"))
        for key in (SESSION, AGE):
            ensure_key(home, key)
        _start_servers(topology, stack)
        migrate.upgrade(postgres.dsn)
        settings = topology.environment(environment or {})
        names = {f"api{n}": "serve" for n in range(instances)}
        if worker:
            names |= {"worker": "worker", "scheduler": "scheduler"}
        for name, role in names.items():
            port = children.free_port()
            if role == "serve":
                topology.api_ports.append(port)
            own = {"RAPPORT_PORT": str(port), "RAPPORT_INSTANCE": name}
            if role == "worker":
                topology.worker_port, own["RAPPORT_METRICS_PORT"] = port, str(port)
            program = Program(role, home / f"{name}.log", {**settings, **own}, patience=8.0)
            program.start()
            stack.callback(program.stop)
            if program.process is not None:
                topology.roots[name] = program.process.pid
                topology.logs[name] = program.log
        if worker:
            give_way(topology.roots["worker"])
        _start_nginx(topology, stack)
        for port in topology.api_ports:
            _await(f"http://127.0.0.1:{port}/health/ready", topology)
        _await(f"{topology.url}/health/ready", topology)
        yield topology


def _leave(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def give_way(pid: int) -> None:
    """Let others go first, as if this process had a machine of its own where learning may wait (Linux: sessions too)."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, 10)
        # where every session has its own share of the processor, niceness counts among sessions by this file alone
        Path(f"/proc/{pid}/autogroup").write_text("10")


def _start_servers(topology: Topology, stack: ExitStack) -> None:
    topology.mock_port = children.free_port()
    log = topology.home / "mock.log"
    process = children.spawn(children.Command((str(build().mock), "--port", str(topology.mock_port)), log))
    stack.callback(children.end, process, ())
    topology.roots["model"] = process.pid
    stack.callback(topology.postgres.stop, immediately=True)
    topology.postgres.start()
    stack.callback(topology.valkey.stop)
    topology.valkey.start()
    for name, server in (("postgres", topology.postgres.process), ("valkey", topology.valkey.process)):
        if server is not None:
            topology.roots[name] = server.pid


def nginx_config(folder: Path, port: int, upstreams: list[int]) -> str:
    """deploy/nginx.conf, with what only a container network has replaced: its resolver, its names, port 80."""
    text = (CHECKOUT / "deploy" / "nginx.conf").read_text()
    server = "server api:8000 resolve max_fails=2 fail_timeout=5s;"
    if server not in text:
        raise NoProxyError("deploy/nginx.conf has changed: its upstream is not the line that this replaces")
    servers = " ".join(server.replace("api:8000 resolve", f"127.0.0.1:{each}") for each in upstreams)
    folders = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace(server, servers).replace("listen 80;", f"listen 127.0.0.1:{port} backlog=4096;")
    text = text.replace("http {", f"http {{ access_log off; {folders}")
    most = os.sysconf("SC_OPEN_MAX")
    text = text.replace("worker_rlimit_nofile 65536;", f"worker_rlimit_nofile {min(65536, most)};")
    text = text.replace("worker_connections 16384", f"worker_connections {min(16384, most - 64)}")
    head = f"daemon off; pid {folder}/nginx.pid; error_log {folder}/nginx.log warn;\n"
    return f"user {Path.home().owner()};\n{head}{text}"


def _start_nginx(topology: Topology, stack: ExitStack) -> None:
    topology.port = children.free_port()
    folder = topology.home / "nginx"
    folder.mkdir()
    config = folder / "nginx.conf"
    config.write_text(nginx_config(folder, topology.port, topology.api_ports))
    command = (str(NGINX), "-c", str(config), "-e", str(folder / "nginx.log"))
    process = children.spawn(children.Command(command, topology.home / "nginx.out"))
    stack.callback(children.end, process, ((signal.SIGTERM, 5.0),))
    topology.roots["nginx"] = process.pid
    topology.logs["nginx"] = folder / "nginx.log"


def _await(url: str, topology: Topology) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not children.answers(url):
        if time.monotonic() > deadline:
            said = "\n".join(f"--- {name}\n{children.tail(log)}" for name, log in topology.logs.items())
            raise subprocess.SubprocessError(f"{url} did not answer within {READY_SECONDS:.0f} s\n{said}")
        time.sleep(0.1)
