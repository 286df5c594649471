"""A Valkey cluster and a set of Sentinels, from the bundled program: formed, killed and healed by tests."""

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import redis

from service.dev import children
from service.dev.accounts import Account, service_account
from service.dev.children import free_port
from service.dev.homes import OwnedDirectory
from service.dev.valkey import EmbeddedValkey, server_program

PASSWORD = "clusters-of-tests"
FORM_SECONDS = 30.0
NODE_TIMEOUT_MS = 1500
"""After this silence a node counts as dead; the default of 15 s is made for networks."""
DOWN_AFTER_MS = 1500
SERVICE = "companion"
SLOTS = 16384


def until(what: str, done: Callable[[], bool], seconds: float = FORM_SECONDS) -> float:
    """Wait for it; gives the seconds that it took."""
    began = time.monotonic()
    while True:
        try:
            if done():
                return time.monotonic() - began
        except redis.RedisError:
            pass
        assert time.monotonic() - began < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.02)


@dataclass
class Node:
    """A server that may be seen under another port than its own: that of a hop in front of it."""

    server: EmbeddedValkey
    seen_as: int

    @property
    def pid(self) -> int:
        assert self.server.process is not None
        return self.server.process.pid

    def client(self) -> redis.Redis:
        """Straight to it, past any hop."""
        return redis.Redis(port=self.server.port, password=PASSWORD, socket_timeout=2, socket_connect_timeout=2)

    def ask(self, *words: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*words)

    def role(self) -> str:
        """master or slave; nothing of a server that is away."""
        try:
            return str(self.ask("ROLE")[0].decode())
        except redis.RedisError:
            return ""

    def signal(self, number: int) -> None:
        if self.server.process is not None:
            self.server.process.send_signal(number)


def valkey(home: Path, settings: Mapping[str, object]) -> EmbeddedValkey:
    """A server with the password that all of them share, so that they can be each other's replicas."""
    server = EmbeddedValkey(home, settings=settings)
    secret = home / "password.secret"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    server.port = free_port()
    return server


COMMON = {"repl-diskless-sync-delay": 0, "repl-ping-replica-period": 1, "appendfsync": "everysec"}


@dataclass
class ValkeyCluster:
    """`primaries` nodes with `replicas` each, in order: all primaries first."""

    home: Path
    primaries: int = 3
    replicas: int = 1
    nodes: list[Node] = field(default_factory=list)

    def prepare(self) -> None:
        """Choose ports; a test may then put hops in front of them by `seen_as`."""
        for number in range(self.primaries * (1 + self.replicas)):
            server = valkey(self.home / f"node{number}", {})
            self.nodes.append(Node(server, server.port))

    def launch(self) -> None:
        for node in self.nodes:
            node.server.settings = {
                **COMMON,
                "cluster-enabled": "yes",
                "cluster-node-timeout": NODE_TIMEOUT_MS,
                "cluster-port": free_port(),
                "cluster-announce-port": node.seen_as,
                "cluster-announce-ip": "127.0.0.1",
                "cluster-replica-validity-factor": 0,
            }
            node.server.start()

    def form(self) -> None:
        """Give out the slots and make replicas. Hops must pass things on meanwhile."""
        first = self.nodes[0]
        for number, node in enumerate(self.nodes):
            node.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < self.primaries:
                share = [SLOTS * (number + step) // self.primaries for step in (0, 1)]
                node.ask("CLUSTER", "ADDSLOTSRANGE", share[0], share[1] - 1)
            if node is not first:
                bus = node.server.settings["cluster-port"]
                first.ask("CLUSTER", "MEET", "127.0.0.1", node.server.port, bus)
        ids = [node.ask("CLUSTER", "MYID") for node in self.nodes]
        until("nodes know each other", lambda: all(self._knows(node) == len(self.nodes) for node in self.nodes))
        for number, node in enumerate(self.nodes[self.primaries :]):
            node.ask("CLUSTER", "REPLICATE", ids[number % self.primaries])
        self.healthy()

    def _knows(self, node: Node) -> int:
        return int(node.ask("CLUSTER INFO")["cluster_known_nodes"])

    def healthy(self) -> float:
        """Wait until every slot has an owner, each owner a replica in step, and all agree; gives the seconds."""
        return until("the cluster is whole", self._is_whole)

    def _is_whole(self) -> bool:
        if any(node.ask("CLUSTER INFO")["cluster_state"] != "ok" for node in self.nodes):
            return False
        roles = [node.ask("INFO", "replication") for node in self.nodes]
        owners = [role for role in roles if role["role"] == "master"]
        in_step = [role for role in roles if role["role"] == "slave" and role["master_link_status"] == "up"]
        return len(owners) == self.primaries and len(in_step) == self.primaries * self.replicas

    def owners(self) -> list[Node]:
        return [node for node in self.nodes if node.role() == "master"]

    def replicas_of(self, owner: Node) -> list[Node]:
        """Those that copy it, by what they say themselves."""
        found = []
        for node in self.nodes:
            try:
                said = node.ask("INFO", "replication")
            except redis.RedisError:
                continue
            if said["role"] == "slave" and said["master_port"] == owner.seen_as:
                found.append(node)
        return found

    def flush(self) -> None:
        for node in self.owners():
            node.ask("FLUSHALL")

    @property
    def url(self) -> str:
        return f"redis+cluster://:{PASSWORD}@{','.join(f'127.0.0.1:{node.seen_as}' for node in self.nodes[:2])}"

    def stop(self) -> None:
        for node in self.nodes:
            node.server.kill()


@dataclass
class Sentinel:
    """One that watches; its configuration is its own to write."""

    home: Path
    port: int
    watched: int
    account: Account | None = field(default_factory=service_account)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        OwnedDirectory(self.home, self.account)
        conf = self.home / "sentinel.conf"
        if not conf.exists():
            conf.write_text(
                f"port {self.port}\nbind 127.0.0.1\ndir {self.home}\n"
                f"sentinel monitor {SERVICE} 127.0.0.1 {self.watched} 2\nsentinel auth-pass {SERVICE} {PASSWORD}\n"
                f"sentinel down-after-milliseconds {SERVICE} {DOWN_AFTER_MS}\n"
                f"sentinel failover-timeout {SERVICE} 4000\nsentinel parallel-syncs {SERVICE} 2\n"
            )
            conf.chmod(0o600)
            if self.account is not None:
                self.account.own(conf)
        argv = (str(server_program(self.account)), str(conf), "--sentinel")
        self.process = children.spawn(
            children.Command(argv, self.home / "sentinel.log", signal.SIGTERM, self.account, env={})
        )

    def ask(self, *words: Any) -> Any:
        with redis.Redis(port=self.port, socket_timeout=2) as client:
            return client.execute_command(*words)

    def named(self) -> tuple[int, bool]:
        """The primary's port, and whether this one knows all there is and sees nothing wrong."""
        with redis.Redis(port=self.port, socket_timeout=2) as client:
            said = client.sentinel_master(SERVICE)
        whole = said["num-other-sentinels"] == 2 and said["is_master"] and said["flags"] == "master"
        return int(said["port"]), bool(whole)

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass
class ValkeySentinels:
    """A primary with replicas, watched by three Sentinels, of which two must agree."""

    home: Path
    replicas: int = 2
    nodes: list[Node] = field(default_factory=list)
    sentinels: list[Sentinel] = field(default_factory=list)

    def prepare(self) -> None:
        for number in range(1 + self.replicas):
            server = valkey(self.home / f"node{number}", {})
            self.nodes.append(Node(server, server.port))

    def launch(self) -> None:
        for node in self.nodes:
            node.server.settings = {**COMMON, "replica-announce-ip": "127.0.0.1", "replica-announce-port": node.seen_as}
            node.server.start()

    def form(self) -> None:
        first = self.nodes[0]
        for node in self.nodes[1:]:
            node.ask("REPLICAOF", "127.0.0.1", first.seen_as)
        until("replicas are in step", lambda: len(self.in_step()) == self.replicas)
        for number in range(3):
            sentinel = Sentinel(self.home / f"sentinel{number}", free_port(), first.seen_as)
            sentinel.start()
            self.sentinels.append(sentinel)
        self.healthy()

    def in_step(self) -> list[Node]:
        found = []
        for node in self.nodes:
            said = node.ask("INFO", "replication")
            if said["role"] == "slave" and said["master_link_status"] == "up":
                found.append(node)
        return found

    def healthy(self) -> float:
        return until("Sentinels and servers agree", self._is_whole)

    def _is_whole(self) -> bool:
        owners = self.owners()
        return (
            len(owners) == 1
            and {sentinel.named() for sentinel in self.sentinels} == {(owners[0].seen_as, True)}
            and len(self.in_step()) == self.replicas
        )

    def owners(self) -> list[Node]:
        return [node for node in self.nodes if node.role() == "master"]

    def replicas_of(self, owner: Node) -> list[Node]:
        return [node for node in self.nodes if node is not owner]

    def flush(self) -> None:
        for node in self.owners():
            node.ask("FLUSHALL")

    def url(self, database: int = 0) -> str:
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in self.sentinels)
        return f"redis+sentinel://:{PASSWORD}@{hosts}/{SERVICE}/{database}"

    def stop(self) -> None:
        for sentinel in self.sentinels:
            sentinel.stop()
        for node in self.nodes:
            node.server.kill()


Valkeys = ValkeyCluster | ValkeySentinels


def opened(valkeys: Valkeys, before: Callable[[Sequence[Node]], None] = lambda _nodes: None) -> Valkeys:
    """All of it running; `before` may put something in front of the nodes."""
    valkeys.prepare()
    before(valkeys.nodes)
    try:
        valkeys.launch()
        valkeys.form()
    except BaseException:
        valkeys.stop()
        raise
    return valkeys
