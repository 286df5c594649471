"""What one model on one server can do, as it was found out; kept for a while, also across restarts."""

import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import orjson

PrefillGrade = Literal["unknown", "continues", "doubles", "restarts", "refuses"]
ReasoningShape = Literal["unknown", "none", "field", "tags", "unopened", "always"]
SchemaSupport = Literal["unknown", "json_schema", "loose_schema", "json_object", "text", "none"]

LIFETIME = 24 * 3600.0
"""Seconds after which a record is asked for again: servers are updated, models reloaded."""


@dataclass(frozen=True, slots=True)
class Capabilities:
    """A record; every field may be unknown."""

    server: str = ""
    """"lmstudio", "llamacpp", "vllm", "openai", or empty."""
    context_length: int | None = None
    streams: bool | None = None
    usage: bool | None = None
    structured: SchemaSupport = "unknown"
    prefill: PrefillGrade = "unknown"
    reasoning: ReasoningShape = "unknown"
    embedding_width: int | None = None
    first_token_seconds: float | None = None
    probed_at: float = 0.0
    """Unix time."""


class CapabilityStore:
    """Records by backend, address and model; a small JSON file holds them between runs."""

    def __init__(self, path: Path | None, now: Callable[[], float], *, lifetime: float = LIFETIME) -> None:
        self._path = path
        self._now = now
        self._lifetime = lifetime
        self._records = _read(path) if path is not None else {}

    def get(self, url: str, model: str) -> Capabilities | None:
        """Return a record that is not too old."""
        record = self._records.get(f"{url} {model}")
        return record if record is not None and self._now() - record.probed_at < self._lifetime else None

    def put(self, url: str, model: str, record: Capabilities) -> None:
        self._records[f"{url} {model}"] = record
        if self._path is not None:
            _write(self._path, {key: asdict(value) for key, value in self._records.items()})


def _read(path: Path) -> dict[str, Capabilities]:
    known = {item.name for item in fields(Capabilities)}
    try:
        data = orjson.loads(path.read_bytes())
        return {str(key): Capabilities(**{k: v for k, v in value.items() if k in known}) for key, value in data.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # it is found out again


def _write(path: Path, data: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name)
        with os.fdopen(handle, "wb") as file:
            file.write(orjson.dumps(data, option=orjson.OPT_INDENT_2))
        Path(name).replace(path)
    except OSError:
        return  # a home that can't be written costs a probe at the next start
