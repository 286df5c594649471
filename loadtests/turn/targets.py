"""What is measured: the bare mock, nginx, other people's relays, and Rapport."""

import asyncio
import json
import os
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import asyncpg

from loadtests.native import build
from loadtests.topology import NGINX
from loadtests.turn import client, seed
from loadtests.turn.client import Door
from loadtests.turn.peers import CHECKOUT, LANGGRAPH, LITELLM, install
from loadtests.turn.procs import LOAD_CORE, RELAY_CORE, Process, pin, start
from service import migrate
from service.auth.config import AuthConfig
from service.auth.local_keys import AGE, SESSION, ensure_key, mint
from service.dev.children import free_port
from service.dev.postgres import ROLE, EmbeddedPostgres
from service.dev.valkey import EmbeddedValkey

START_SECONDS = 120.0
PEER_SESSIONS = 200
CONFIG = """
worker_processes 1; daemon off; pid {home}/nginx.pid; error_log {home}/error.log warn; worker_rlimit_nofile 20000;
events {{ worker_connections 8192; }}
http {{
  access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;
  uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;
  upstream mock {{ server {upstream}; keepalive 2000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ proxy_pass http://mock; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }}
  }}
}}
"""
LITELLM_CONFIG = {
    "model_list": [{"model_name": "*", "litellm_params": {"model": "openai/*", "api_key": "none"}}],
    "litellm_settings": {"num_retries": 0, "request_timeout": 120, "telemetry": False},
}


class NotRelayingError(RuntimeError):
    """A target that was started gives no whole streams."""


@dataclass(slots=True)
class Target:
    name: str
    door: Door
    process: Process | None = None
    stores: tuple[int, ...] = ()
    """Servers that work for it beside its own process."""
    most: int = 10_000
    """Streams beyond which it is not asked: it would not finish."""


@dataclass(slots=True)
class Stand:
    """Everything that runs during a measurement."""

    home: Path
    mock_url: str
    stack: ExitStack
    targets: dict[str, Target] = field(default_factory=dict)
    postgres: EmbeddedPostgres | None = None
    valkey: EmbeddedValkey | None = None
    mock: Process | None = None
    service: dict[str, str] = field(default_factory=dict)
    """The environment of Rapport's own processes."""
    patience: float = 15.0
    """Seconds for which a run waits at most for a quiet machine."""

    def run(
        self, name: str, command: list[str], core: int | None, environment: Mapping[str, str] | None = None
    ) -> Process:
        process = start(command, self.home / f"{name}.log", core, environment)
        self.stack.callback(process.stop)
        return process

    def stores(self) -> tuple[EmbeddedPostgres, EmbeddedValkey]:
        """PostgreSQL and Valkey, started when first wanted, kept off the relay's core."""
        if self.postgres is None or self.valkey is None:
            settings = {"shared_buffers": "512MB"}
            self.postgres = EmbeddedPostgres(self.home / "postgres", settings=settings)
            self.valkey = EmbeddedValkey(self.home / "valkey")
            for server in (self.postgres, self.valkey):
                server.start()
                self.stack.callback(server.stop)
                if server.process is not None:
                    pin(server.process.pid, LOAD_CORE)
        return self.postgres, self.valkey


@contextmanager
def opened_stand(home: Path) -> Iterator[Stand]:
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    with ExitStack() as stack:
        port = free_port()
        stand = Stand(home, f"http://127.0.0.1:{port}", stack)
        stand.mock = stand.run("mock", [str(build().mock), "--port", str(port)], LOAD_CORE)
        _await(f"{stand.mock_url}/health", stand.mock)
        stand.targets["direct"] = Target("direct", Door(f"{stand.mock_url}/v1/chat/completions"))
        yield stand


def _await(url: str, process: Process) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError as error:
            if getattr(error, "code", 0) and error.code < 500:  # type: ignore[attr-defined]  # an HTTPError is an answer
                return
            if process.popen.poll() is not None or time.monotonic() > deadline:
                msg = f"{process.log} tells why this did not start:\n{process.log.read_text()[-2000:]}"
                raise RuntimeError(msg) from error
            time.sleep(0.1)


def add_nginx(stand: Stand) -> None:
    if NGINX is None:
        raise NotRelayingError("nginx is not installed")
    port, home = free_port(), stand.home / "nginx"
    home.mkdir()
    config = CONFIG.format(home=home, port=port, upstream=stand.mock_url.removeprefix("http://"))
    (home / "nginx.conf").write_text(config)
    process = stand.run("nginx", [NGINX, "-p", str(home), "-c", str(home / "nginx.conf")], RELAY_CORE)
    _await(f"http://127.0.0.1:{port}/health", process)
    stand.targets["nginx"] = Target("nginx", Door(f"http://127.0.0.1:{port}/v1/chat/completions"), process)


def add_litellm(stand: Stand) -> None:
    install(LITELLM)
    port = free_port()
    config = json.loads(json.dumps(LITELLM_CONFIG))
    config["model_list"][0]["litellm_params"]["api_base"] = f"{stand.mock_url}/v1"
    (stand.home / "litellm.json").write_text(json.dumps(config))  # JSON is YAML
    command = [LITELLM.program("litellm"), "--config", str(stand.home / "litellm.json"), "--host", "127.0.0.1"]
    environment = {
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
        "PATH": f"{LITELLM.home / 'bin'}:{os.environ['PATH']}",
    }
    process = stand.run("litellm", [*command, "--port", str(port), "--num_workers", "1"], RELAY_CORE, environment)
    _await(f"http://127.0.0.1:{port}/health/liveliness", process)
    # at 10 streams of 50 tokens a second it is full (measured)
    stand.targets["litellm"] = Target("litellm", Door(f"http://127.0.0.1:{port}/v1/chat/completions"), process, most=1)


def _uvicorn(stand: Stand, name: str, environment: Mapping[str, str]) -> tuple[int, Process]:
    install(LANGGRAPH)
    port = free_port()
    command = [LANGGRAPH.program("uvicorn"), f"loadtests.turn.peers.{name}:app", "--host", "127.0.0.1"]
    command += ["--port", str(port), "--log-level", "warning", "--no-access-log", "--backlog", "4096"]
    command += ["--loop", "uvloop", "--http", "httptools"]
    given = {"UPSTREAM": stand.mock_url, "PYTHONPATH": str(CHECKOUT), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    process = stand.run(name, command, RELAY_CORE, given)
    _await(f"http://127.0.0.1:{port}/openapi.json", process)
    return port, process


def add_usual(stand: Stand) -> None:
    port, process = _uvicorn(stand, "usual", {})
    door = Door(f"http://127.0.0.1:{port}/chat", text="text", event="token", done="event:done")
    stand.targets["usual"] = Target("usual", door, process, most=100)


def add_langgraph(stand: Stand) -> None:
    postgres, _ = stand.stores()
    asyncio.run(_create_database(postgres.url("postgres", superuser=True), "graph"))
    dsn = f"{postgres.dsn.rpartition('/')[0]}/graph"
    port, process = _uvicorn(
        stand, "graph", {"GRAPH_DSN": dsn, "LANGSMITH_TRACING": "false", "LANGCHAIN_TRACING_V2": "false"}
    )
    url = f"http://127.0.0.1:{port}"
    urllib.request.urlopen(urllib.request.Request(f"{url}/seed?n={PEER_SESSIONS}", method="POST"), timeout=300).close()
    message = "Hello there, how was your day? #tag:{tag}#"
    body = json.dumps({"session": "s{s}", "message": message, "model": "%MODEL"})
    door = Door(f"{url}/chat", body, text="text", event="token", done="event:done", sessions=PEER_SESSIONS)
    stand.targets["langgraph"] = Target("langgraph", door, process, _pids(stand), most=100)


async def _create_database(superuser: str, name: str) -> None:
    connection = await asyncpg.connect(superuser)
    try:
        await connection.execute(f"CREATE DATABASE {name} OWNER {ROLE}")
    finally:
        await connection.close()


def _pids(stand: Stand) -> tuple[int, ...]:
    return tuple(server.process.pid for server in stand.stores() if server.process is not None)


def add_rapport(stand: Stand, profiles: Mapping[str, str], users: int, memories: int, conversations: int) -> None:
    """One API process that writes replies, as many memories for each user as asked, embedded by the real model."""
    postgres, valkey = stand.stores()
    migrate.upgrade(postgres.dsn)
    home = stand.home / "rapport"
    home.mkdir(exist_ok=True)
    for kind in (SESSION, AGE):
        ensure_key(home, kind)
    port = free_port()
    backends = [
        {
            "name": name,
            "kind": "openai_compatible",
            "url": f"{stand.mock_url}/v1",
            "model": model,
            "context_length": 8192,
            "max_concurrency": 5000,
            "continues": True,
            "timeouts": {"first_token": 300.0},
        }
        for name, model in profiles.items()
    ]
    (stand.home / "backends.json").write_text(json.dumps(backends))
    stand.service = {
        "RAPPORT_HOME": str(home),
        "RAPPORT_EMBEDDED": "true",
        "RAPPORT_PORT": str(port),
        "PYTHONPATH": str(CHECKOUT),
        "DATABASE_URL": postgres.dsn,
        "REDIS_URL": valkey.url,
        "LLM_BACKENDS": str(stand.home / "backends.json"),
        "RATE_LIMIT_REQUESTS_PER_MINUTE": "10000000",
        "RATE_LIMIT_AUTHENTICATED_PER_DAY": "100000000",
        "STREAMS_PER_USER": "100000",
        "STREAMS_PER_ADDRESS": "100000",
        "LOG_LEVEL": "warning",
    }
    config = AuthConfig(home, embedded=True)
    tokens = {f"bench-{number}": mint(config, f"bench-{number}", timedelta(hours=6)) for number in range(users)}
    paths = seed.seed(postgres.dsn, home, tokens, memories=memories, conversations=conversations)
    listing = stand.home / "paths.txt"
    listing.write_text("".join(f"{path} {token}\n" for path, token in paths))
    process = stand.run("rapport", [sys.executable, "-m", "service", "serve"], RELAY_CORE, stand.service)
    _await(f"http://127.0.0.1:{port}/health/ready", process)
    body = json.dumps({"content": "Hello there, how was your day? #tag:{tag}#", "backend": "%MODEL"})
    door = Door(
        f"http://127.0.0.1:{port}/", body, text="text", event="reply.delta", done="event:turn.completed", paths=listing
    )
    stand.targets["rapport"] = Target("rapport", door, process, _pids(stand))


PEERS: dict[str, Callable[[Stand], None]] = {
    "nginx": add_nginx,
    "usual": add_usual,
    "litellm": add_litellm,
    "langgraph": add_langgraph,
}


def warm(target: Target, model: str) -> None:
    """A few streams before anything is measured. Raises when they don't come through whole."""
    found = client.run(target.door, model, 5, 8, ["-n", "60", "--timeout", "20"])
    if found["ok"] < 60 or found["fail"]:
        log = target.process.log.read_text()[-2000:] if target.process else ""
        msg = f"{target.name} did not relay: {json.dumps(found)[:600]}\n{log}"
        raise NotRelayingError(msg)
