"""Prompts, one versioned file each: a changed prompt is a new file, so that every fact names the one it came from."""

import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Prompt:
    name: str
    """With its version; stored with whatever comes of it."""
    system: str
    examples: tuple[tuple[str, str], ...]


@cache
def load(name: str) -> Prompt:
    raw = tomllib.loads((Path(__file__).parent / f"{name}.toml").read_text(encoding="utf-8"))
    examples = tuple((shot["user"].strip(), shot["assistant"].strip()) for shot in raw.get("examples", ()))
    return Prompt(name, raw["system"].strip(), examples)
