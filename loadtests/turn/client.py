"""Runs of the streaming client, and what the mock says of them."""

import json
import subprocess
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from loadtests.native import build
from loadtests.turn.procs import LOAD_CORE, pin

CHAT_BODY = json.dumps(
    {
        "model": "%MODEL",
        "stream": True,
        "messages": [
            {"role": "system", "content": "You are a kind companion. " * 8},
            {"role": "user", "content": "Hello there, how was your day? #tag:{tag}#"},
        ],
    }
)


@dataclass(frozen=True, slots=True)
class Door:
    """How a target is spoken to: where the text is in its events, and how they end."""

    url: str
    body: str = CHAT_BODY
    """%MODEL is the mock's profile; {tag}, {i}, {s} are the client's own."""
    text: str = "choices.0.delta.content"
    event: str = ""
    done: str = "[DONE]"
    paths: Path | None = None
    sessions: int = 1
    headers: Sequence[str] = field(default_factory=tuple)


def command(door: Door, model: str, expected: int, streams: int, options: Sequence[str]) -> list[str]:
    made = [str(build().client), "--url", door.url, "-c", str(streams), "--path", door.text, "--done", door.done]
    made += ["--expect", str(expected), "--body", door.body.replace("%MODEL", model), "--sessions", str(door.sessions)]
    if door.event:
        made += ["--event", door.event]
    if door.paths:
        made += ["--paths", str(door.paths)]
    for header in door.headers:
        made += ["--header", header]
    return [*made, *options]


def run(door: Door, model: str, expected: int, streams: int, options: Sequence[str]) -> dict[str, Any]:
    """One run of the client to its end: its figures, latencies in milliseconds."""
    popen = subprocess.Popen(command(door, model, expected, streams, options), stdout=subprocess.PIPE, text=True)
    pin(popen.pid, LOAD_CORE)
    output, _ = popen.communicate()
    return parsed(output)


def parsed(output: str) -> dict[str, Any]:
    """The client's last words."""
    found: dict[str, Any] = json.loads(output)
    return found


def mock_says(url: str, *, reset: bool = False) -> dict[str, Any]:
    """The mock's own counters since it was last reset: streams, tokens, how late its timers were."""
    path, method = ("/stats/reset", "POST") if reset else ("/stats", "GET")
    with urllib.request.urlopen(urllib.request.Request(url + path, method=method), timeout=20) as answer:
        found: dict[str, Any] = json.load(answer)
    return found
