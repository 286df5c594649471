"""A crowd of the client in C against a topology: one run, and all that is known of it afterwards."""

import asyncio
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.native import build
from loadtests.sampling import Sampler, Samples
from loadtests.synthetic import Person, people, settle, write_says, write_users
from loadtests.topology import Topology

CLIENT = "generator"


@dataclass(frozen=True, slots=True)
class Wish:
    """What the crowd does."""

    users: int
    seconds: float = 120.0
    warm: float = 20.0
    think: tuple[float, float] = (5.0, 15.0)
    ramp: float = 15.0
    breaks: int = 5
    """Percent of the replies that lose their connection in the middle."""
    turns: int = 0
    """Of each user, at most; 0: as many as there is time for."""
    grace: float = 60.0
    timeout: float = 120.0
    """Seconds that one turn may take."""
    every: int = 5
    hold: bool = False
    """Replies that are still open at the end count by what came of them so far."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The client's figures, the parts' cost, what the model server said of itself, and how it went over time."""

    wish: Wish
    client: dict[str, Any]
    samples: Samples
    model: dict[str, Any]
    progress: list[dict[str, Any]]

    @property
    def success(self) -> float:
        """Percent of the counted turns whose reply came whole, in order, and once."""
        turns = self.client["turns"]
        return 100 * self.client["ok"] / turns if turns else 0.0

    @property
    def wrong(self) -> int:
        """Tokens lost, repeated, or another stream's; events out of order."""
        return sum(int(self.client[name]) for name in ("missing", "repeated", "strange", "wrong_tag", "id_gaps"))


def run(topology: Topology, wish: Wish, persons: Sequence[Person] | None = None) -> Outcome:
    """Let the crowd in, until its time is over. Without `persons`, users without a history are made."""
    folder = topology.home / "crowd"
    folder.mkdir(exist_ok=True)
    if persons is None:
        persons = people(wish.users, prefix=f"crowd{wish.users}-{len(list(folder.iterdir()))}")
        asyncio.run(settle(topology, persons))
    users, says, progress = folder / f"users-{wish.users}.txt", folder / "says.txt", folder / "progress.jsonl"
    write_users(users, topology, persons)
    write_says(says)
    client = subprocess.Popen(_command(topology, wish, users, says, progress), stdout=subprocess.PIPE, text=True)
    try:
        with Sampler(topology, {CLIENT: client.pid}, warm=wish.warm) as sampler:
            said, _ = client.communicate()
    finally:
        if client.poll() is None:
            client.kill()
            client.wait()
    if client.returncode != 0:
        raise subprocess.CalledProcessError(client.returncode, "chat_load")
    found: dict[str, Any] = json.loads(said)
    sampler.samples.processor[CLIENT] = found["cpu_s"] * sampler.samples.seconds / max(1.0, found["wall_s"])
    lines = progress.read_text().splitlines() if progress.exists() else []
    return Outcome(wish, found, sampler.samples, topology.mock_stats(), [json.loads(line) for line in lines])


def _command(topology: Topology, wish: Wish, users: Path, says: Path, progress: Path) -> list[str]:
    options: dict[str, object] = {
        "port": topology.port,
        "users": users,
        "says": says,
        "think": f"{wish.think[0]}-{wish.think[1]}",
        "seconds": wish.seconds,
        "warm": wish.warm,
        "ramp": wish.ramp,
        "grace": wish.grace,
        "timeout": wish.timeout,
        "breaks": wish.breaks,
        "turns": wish.turns,
        "expect": topology.mock.tokens,
        "progress": progress,
        "every": wish.every,
        "hold": int(wish.hold),
    }
    return [str(build().people), *(part for name, value in options.items() for part in (f"--{name}", str(value)))]
