"""`rapport up`: everything that Rapport needs on one machine, in one place, until Ctrl-C.

It owns what it starts. Parts that end by themselves are started again at the same address; when this process is killed,
the kernel ends them all, and the next `up` takes over what is left.
"""

import json
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from service import migrate
from service.dev import children, weights
from service.dev.accounts import Account, data_directory, service_account
from service.dev.console import Speaker, curl_line
from service.dev.environment import environment_file, read_environment, write_environment
from service.dev.errors import EmbeddedError, HomeInUseError, ModelMissingError, ServerStartError
from service.dev.homes import OwnedDirectory
from service.dev.model import EmbeddedModel
from service.dev.postgres import EmbeddedPostgres
from service.dev.programs import Program, Watched
from service.dev.valkey import EmbeddedValkey
from service.settings import Settings, default_home

API_READY_SECONDS = 120.0
MODEL_READY_SECONDS = 300.0
WORKER_SECONDS = 3.0
"""What a worker leaves undone is done again, once."""
DRAIN_SECONDS = 5.0
"""Unless DRAIN_SECONDS says otherwise: what isn't finished by then, the next start goes on with."""
SCRIPTED = [{"name": "scripted", "kind": "scripted"}]
BUSY = (
    "Rapport is already running from {path} (process {pid}). Stop that one, or set RAPPORT_HOME to another directory."
)


class _Stopped(BaseException):
    """SIGINT, SIGTERM or SIGHUP came. Not an Exception: nothing on the way may take it for a failure."""


@dataclass(slots=True)
class Supervisor:
    """Starts the parts in order, tends them, ends them in the opposite order."""

    settings: Settings
    speaker: Speaker = field(default_factory=Speaker)
    module: str = "service"
    """Run as `python -m MODULE serve|worker|scheduler`."""
    environment: dict[str, str] = field(default_factory=dict, init=False)
    """What the parts and other commands need to find each other."""
    _account: Account | None = field(default_factory=service_account, init=False)
    _home: OwnedDirectory | None = field(default=None, init=False)
    _watched: list[Watched] = field(default_factory=list, init=False)
    _ends: list[Callable[[], None]] = field(default_factory=list, init=False)
    _programs: list[Program] = field(default_factory=list, init=False)
    _model: EmbeddedModel | None = field(default=None, init=False)
    _port: int = field(default=0, init=False)

    @property
    def address(self) -> str:
        """Of the page and the API."""
        host = self.settings.host
        return f"http://{'127.0.0.1' if host in {'0.0.0.0', '::'} else host}:{self._port}"  # noqa: S104

    def start(self) -> None:
        """Start everything and return when the API answers. Raises an `EmbeddedError` that says what to do."""
        home = OwnedDirectory(self.settings.home, self._account, passage=True)
        home.lock(BUSY)
        self._home = home
        self.environment = {"RAPPORT_HOME": str(home.path), "RAPPORT_EMBEDDED": "1"}
        (home.path / "logs").mkdir(mode=0o700, exist_ok=True)
        self._start_postgres()
        self._start_valkey()
        self._start_model()
        with self.speaker.step("Bringing the database up to date", "Database is up to date"):
            migrate.upgrade(self._database_url())
        self._choose_port()
        write_environment(home.path, self.environment)
        self._start_programs()
        self._await_model()

    def tend(self) -> None:
        """Once: start again what has ended."""
        now = time.monotonic()
        for part in self._watched:
            part.tend(self.speaker.warn, now)

    def stop(self) -> None:
        """The API first, so that replies in progress can still be kept; the servers last."""
        self._watched.clear()
        for program in reversed(self._programs):
            program.ask_to_stop()  # all at once: each takes its time
        while self._ends:
            self._ends.pop()()
        if self._home is not None:
            environment_file(self._home.path).unlink(missing_ok=True)
            self._home.unlock()

    def hurry(self) -> None:
        """While stopping: wait for no more replies. The servers still end in good order."""
        for program in self._programs:
            if program.process is not None and program.process.poll() is None:
                program.process.kill()

    def _data(self, name: str) -> Path:
        return data_directory(self.settings.home, self._account) / name

    def _database_url(self) -> str:
        return self.environment.get("DATABASE_URL") or self.settings.database_url.get_secret_value()

    def _start_postgres(self) -> None:
        if self.settings.database_url.get_secret_value():
            self.speaker.say("  PostgreSQL: yours, from DATABASE_URL")
            return
        server = EmbeddedPostgres(self._data("postgres"), account=self._account)
        with self.speaker.step("Starting PostgreSQL with pgvector", "PostgreSQL with pgvector"):
            server.start()
        self._ends.append(server.stop)
        self._watched.append(Watched("PostgreSQL", lambda: server.process, server.restart, server.log))
        self.environment["DATABASE_URL"] = server.dsn

    def _start_valkey(self) -> None:
        if not self.settings.redis_enabled or "redis_url" in self.settings.model_fields_set:
            self.speaker.say(f"  Redis: {'yours, from REDIS_URL' if self.settings.redis_enabled else 'switched off'}")
            return
        server = EmbeddedValkey(self._data("valkey"), account=self._account)
        with self.speaker.step("Starting Valkey", "Valkey (Redis)"):
            server.start()
        self._ends.append(server.stop)
        self._watched.append(Watched("Valkey", lambda: server.process, server.restart, server.log))
        self.environment["REDIS_URL"] = server.url
        if not self.settings.dramatiq_broker_url.get_secret_value():
            self.environment["DRAMATIQ_BROKER_URL"] = server.database_url(1)

    def _start_model(self) -> None:
        chosen = self.settings
        if chosen.llm_backends or chosen.openai_api_key.get_secret_value() or chosen.lmstudio_url:
            self.speaker.say("  Chat model: yours, by configuration")
            return
        path = None if chosen.embedded_model == "none" else self._weights()
        if path is None:
            self.speaker.warn(
                "No chat model: replies are scripted. OPENAI_API_KEY, LMSTUDIO_URL or LLM_BACKENDS connect one."
            )
            self.environment["LLM_BACKENDS"] = json.dumps(SCRIPTED)
            return
        model = EmbeddedModel(self.settings.home / "model", path)
        model.launch()
        self._model = model
        self._ends.append(model.stop)
        self.environment["LLM_BACKENDS"] = json.dumps([model.backend()])
        # one model, two cores: whoever waits for a reply goes before what can be learnt later
        self.environment |= {"LEARN_POLITELY": "true", "WORKER_THREADS": "1", "LEARN_BATCH": "6"}

    def _weights(self) -> Path | None:
        choice, cache = self.settings.embedded_model, self.settings.home / "models"
        found = weights.find(choice, cache)
        if found is not None:
            return found
        try:
            with self.speaker.bar(f"Fetching the chat model, once ({weights.KNOWN[choice].size / 1e9:.1f} GB)") as tell:
                return weights.fetch(choice, cache, tell)
        except ModelMissingError as error:
            self.speaker.warn(str(error))
            return None

    def _choose_port(self) -> None:
        wanted, host = self.settings.port, self.settings.host
        if wanted == 0:
            self._port = children.free_port()
        else:
            ports = (port for port in range(wanted, min(wanted + 100, 65536)) if children.port_is_free(port, host))
            self._port = next(ports, 0) or children.free_port()
            if self._port != wanted:
                self.speaker.warn(f"Port {wanted} is taken: using {self._port}. RAPPORT_PORT chooses another.")
        self.environment["RAPPORT_PORT"] = str(self._port)

    def _start_programs(self) -> None:
        seconds = self.settings.drain_seconds if "drain_seconds" in self.settings.model_fields_set else DRAIN_SECONDS
        self.environment["DRAIN_SECONDS"] = str(seconds)
        self.environment["PROXY_IDLE_SECONDS"] = "0"  # no proxy stands before it, and who pressed Ctrl-C waits
        names = {"scheduler": "Scheduler", "worker": "Worker", "serve": "API"}
        if not self.settings.redis_enabled:
            names = {"serve": "API"}  # one process, without a queue
        for name, title in names.items():
            log = self.settings.home.absolute() / "logs" / f"{name}.log"
            patience = seconds + 5.0 if name == "serve" else WORKER_SECONDS
            program = Program(name, log, self.environment, patience, self.module)
            program.start()
            self._programs.append(program)
            self._ends.append(program.stop)
            self._watched.append(Watched(title, lambda program=program: program.process, program.start, log))  # type: ignore[misc]
            if name == "serve":
                self._await_api(program)

    def _await_api(self, program: Program) -> None:
        if program.process is None:
            raise ServerStartError("The API was not started")
        with self.speaker.step("Starting the API, a worker and the scheduler", "API, worker, scheduler"):
            children.wait_until(
                self._api_answers, program.process, program.log, name="The API", timeout=API_READY_SECONDS
            )

    def _api_answers(self) -> bool:
        return children.answers(f"{self.address}/health/live")

    def _await_model(self) -> None:
        model = self._model
        if model is None or model.process is None:
            return
        with self.speaker.step("Loading the chat model", f"Chat model {model.model}"):
            children.wait_until(
                model.is_ready, model.process, model.log, name="The chat model", timeout=MODEL_READY_SECONDS
            )
        self._watched.append(Watched("Chat model", lambda: model.process, model.launch, model.log))


def up(settings: Settings, *, print_env: bool = False, supervisor: Supervisor | None = None) -> int:
    """Run everything until a signal comes; the exit code. `print_env` prints how other programs reach the parts.

    With `print_env` and an `up` that runs already, prints that one's environment and returns.
    """
    supervisor = supervisor or Supervisor(settings)
    speaker = supervisor.speaker
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:  # nohup asked for that
            signal.signal(number, _raise_stopped)
    started = time.monotonic()
    try:
        supervisor.start()
        _announce(supervisor, time.monotonic() - started, print_env=print_env)
        while True:
            supervisor.tend()
            time.sleep(0.2)
    except _Stopped:
        return 0
    except HomeInUseError as error:
        if print_env and _print_environment(settings.home):
            return 0
        speaker.warn(str(error))
        return 1
    except (EmbeddedError, OSError) as error:
        speaker.warn(str(error))
        return 1
    finally:
        _stop(supervisor)


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    raise _Stopped


def _stop(supervisor: Supervisor) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda _number, _frame: supervisor.hurry())
    if supervisor.environment:
        with supervisor.speaker.step(
            "Stopping; replies get a moment to finish, Ctrl-C again cuts them short",
            "Stopped; the data stays for the next start",
        ):
            supervisor.stop()


def _announce(supervisor: Supervisor, seconds: float, *, print_env: bool) -> None:
    home = supervisor.settings.home.absolute()
    speaker = supervisor.speaker
    if print_env:
        _print_environment(home)
    speaker.say(f"\nReady after {seconds:.1f} s. Data and logs: {home}. Ctrl-C stops everything.")
    speaker.say(f"Page:   {supervisor.address}/")
    speaker.say(f"Stream: {curl_line(supervisor.address, None if home == default_home().absolute() else home)}")


def _print_environment(home: Path) -> bool:
    values = read_environment(home)
    print("".join(f"export {name}={shlex.quote(value)}\n" for name, value in values.items()), end="")
    return bool(values)
