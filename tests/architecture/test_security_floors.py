"""No dependency older than the release that closed a hole we know of.

An audit tool asks a database over the network and, without one, passes everything; this table needs nobody. The canary
proves that the check can fail.
"""

import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]

# distribution → (first release without the hole, what it was)
FLOORS = {
    "pyjwt": ("2.13", "CVE-2026-48523 allow-list bypass with PyJWK; CVE-2026-32597 crit; CVE-2024-53861 iss"),
    "starlette": ("1.0.1", "CVE-2026-48710 Host header poisons paths; CVE-2025-62727 Range denial of service"),
    "redis": ("8.0.1", "a cancelled pipeline leaks its connection (redis-py #4123); #2624 the class of March 2023"),
    "uvicorn": ("0.54", "0.43 and its successors cut streams at SIGTERM (#2829, reverted by #2913)"),
    "aiohttp": ("3.13", "the parser's request smuggling fixes up to 3.12.14"),
    "cryptography": ("46", "the OpenSSL of older wheels"),
}


def too_old(name: str, version: str) -> bool:
    return Version(version) < Version(FLOORS[name][0])


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_installed_and_what_is_pinned_is_new_enough(name: str) -> None:
    assert not too_old(name, metadata.version(name)), FLOORS[name][1]
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    pins = {pin.name.lower(): next(iter(pin.specifier)).version for pin in map(Requirement, filter(None, lines))}
    assert not too_old(name, pins[name]), FLOORS[name][1]


@pytest.mark.parametrize("name", FLOORS)
def test_nobody_may_install_an_older_one(name: str) -> None:
    lines = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    asked = next(found for found in map(Requirement, lines) if found.name.lower() == name)
    floors = [Version(item.version) for item in asked.specifier if item.operator in {">=", "=="}]
    assert floors, f"{name} has no lower bound"
    assert max(floors) >= Version(FLOORS[name][0]), FLOORS[name][1]


def test_the_check_can_fail() -> None:
    assert too_old("pyjwt", "2.12.1")
    assert not too_old("pyjwt", "2.13.0")
