"""The embedded chat model's server: its protocol, its key, its end. What it says is never looked at."""

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from service.dev import children, model_server
from service.dev.errors import ServerStartError
from service.dev.model import EmbeddedModel
from service.llm.config import parse_backends
from tests.fixtures.model import small_weights

ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.model


def post(model: EmbeddedModel, key: str, **body: object) -> bytes:
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    request = urllib.request.Request(f"{model.url}/chat/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: bytes = answer.read()
        return content


ASKING = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}


def test_it_streams_with_usage(embedded_model: EmbeddedModel) -> None:
    text = post(
        embedded_model, embedded_model.api_key, stream=True, stream_options={"include_usage": True}, **ASKING
    ).decode()
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    assert lines[-1] == "[DONE]"
    chunks = [json.loads(line) for line in lines[:-1]]
    assert {chunk["model"] for chunk in chunks} == {embedded_model.model}
    assert chunks[-1]["usage"]["completion_tokens"] >= 1
    assert len([chunk for chunk in chunks if chunk["choices"]]) > 2


def test_it_answers_in_the_shape_it_is_asked_for(embedded_model: EmbeddedModel) -> None:
    schema = {
        "type": "object",
        "properties": {"yes": {"type": "boolean"}},
        "required": ["yes"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    answer = json.loads(
        post(
            embedded_model,
            embedded_model.api_key,
            response_format=form,
            temperature=0,
            messages=ASKING["messages"],
            max_tokens=30,
        )
    )
    assert isinstance(json.loads(answer["choices"][0]["message"]["content"])["yes"], bool)


def test_only_the_holder_of_the_key_may_ask(embedded_model: EmbeddedModel) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(embedded_model, "guess", **ASKING)
    assert refused.value.code == 401
    assert embedded_model.process is not None
    assert embedded_model.api_key not in " ".join(psutil.Process(embedded_model.process.pid).cmdline())


def test_its_entry_is_one_that_the_service_reads(embedded_model: EmbeddedModel) -> None:
    (backend,) = parse_backends(json.dumps([embedded_model.backend()]))
    assert (backend.url, backend.model, backend.context_length) == (embedded_model.url, embedded_model.model, 2048)
    assert backend.is_local


async def test_started_again_it_keeps_its_address(tmp_path: Path) -> None:
    model = EmbeddedModel(tmp_path, small_weights(), context=512, slots=1).start()
    try:
        before = model.url
        assert model.process is not None
        model.process.kill()
        model.process.wait()
        model.launch()
        await asyncio.to_thread(children.wait_until, model.is_ready, model.process, model.log, name="model", timeout=60)
        assert model.url == before
        assert json.loads(post(model, model.api_key, **ASKING))["model"] == model.model
    finally:
        model.stop()
    assert not model.is_ready()


def test_it_ends_with_its_parent_even_where_the_kernel_does_not_help(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from service.dev import children; from service.dev.model import EmbeddedModel\n"
        "children.LAUNCHER = Path(sys.argv[3])\n"
        "model = EmbeddedModel(Path(sys.argv[1]), Path(sys.argv[2]), context=512, slots=1).start()\n"
        "print(model.process.pid, flush=True)"
    )
    careless = tmp_path / "launch.py"
    careless.write_text((ROOT / "service/dev/launch.py").read_text().replace('sys.platform == "linux"', "False"))
    argv = [sys.executable, "-c", program, str(tmp_path / "home"), str(small_weights()), str(careless)]
    parent = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    orphan = psutil.Process(int(parent.stdout)) if psutil.pid_exists(int(parent.stdout)) else None
    deadline = time.monotonic() + 10
    while orphan is not None and orphan.is_running() and orphan.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline, "the model outlived its parent"
        time.sleep(0.1)


def test_a_file_that_is_no_model_is_said(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(ServerStartError, match="chat model ended at start"):
        EmbeddedModel(tmp_path / "home", broken).start()


def test_a_missing_openmp_is_said_with_its_remedy(tmp_path: Path) -> None:
    (tmp_path / "xllamacpp.py").write_text("raise ImportError('libgomp.so.1: cannot open shared object file')")
    argv = [sys.executable, "-m", "service.dev.model_server", "x", "x", "0", "1", "1"]
    found = subprocess.run(
        argv, cwd=ROOT, env={"PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert model_server.NO_OPENMP in found.stderr
