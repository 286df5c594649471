import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from service.llm import doctor
from service.llm.capabilities import CapabilityStore
from service.llm.config import BackendConfig
from service.llm.doctor import Examination, examine, main, show
from tests.misbehaving.process import Misbehaving


async def examined(url: str, model: str = "normal", **fields: Any) -> Examination:
    report = await examine([BackendConfig(name="b", url=url, model=model, **fields)])
    return report.backends[0]


def finding(examination: Examination, topic: str) -> tuple[str, str, str]:
    found = next(item for item in examination.findings if item.topic == topic)
    return found.grade, found.text, found.advice


async def test_a_good_server_is_described(misbehaving: Misbehaving) -> None:
    seen = await examined(misbehaving.url)
    assert seen.works
    record = seen.capabilities
    assert (record.server, record.context_length, record.streams, record.usage) == ("lmstudio", 4096, True, True)
    assert (record.structured, record.prefill, record.reasoning) == ("json_schema", "continues", "none")
    assert record.first_token_seconds is not None
    assert finding(seen, "context")[0] == "warn"
    assert "Context Length" in finding(seen, "context")[2]


@pytest.mark.parametrize(
    ("quirk", "topic", "grade", "told"),
    [
        ("json-schema-refused", "structured", "note", "without a schema"),
        ("no-usage", "usage", "note", "estimates"),
        ("not-streamed", "streaming", "warn", "one piece"),
        ("prefill-refused", "prefill", "note", "cannot be continued"),
        ("doubled-prefill", "prefill", "note", "repeats the beginning"),
        ("think-tags", "reasoning", "ok", "taken out"),
        ("reasoning-content", "reasoning", "ok", "apart"),
        ("all-reasoning", "reasoning", "warn", "all thinking"),
        ("think-never-opened", "reasoning", "ok", "without a tag"),
        ("system-role-refused", "asked", "note", "refuses the system role"),
        ("max-tokens-refused", "asked", "note", "max_completion_tokens"),
        ("temperature-refused", "asked", "note", "temperature"),
        ("key-refused", "reply", "fail", "API key was refused"),
        ("no-credit", "reply", "fail", "no credit"),
        ("503", "reply", "fail", "no reply now"),
        ("no-usage", "loaded", "warn", "LM Studio has normal in memory"),
    ],
)
async def test_each_weakness_is_told(quirk: str, topic: str, grade: str, told: str, misbehaving: Misbehaving) -> None:
    seen = await examined(misbehaving.url, quirk)
    assert finding(seen, topic)[0] == grade
    assert told in finding(seen, topic)[1]


def seen_as(name: str, misbehaving: Misbehaving) -> BackendConfig:
    return BackendConfig(name=name, url=misbehaving.url, model="normal")


async def test_servers_at_the_usual_addresses_are_found(
    misbehaving: Misbehaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "USUAL", ("http://127.0.0.1:9", misbehaving.root))
    report = await examine([])
    assert not report.works
    assert f"LMSTUDIO_URL={misbehaving.root}" in report.data()["advice"]
    assert "127.0.0.1:9:" not in report.advice


async def test_embeddings_are_measured(misbehaving: Misbehaving) -> None:
    seen = await examined(misbehaving.url, embedding_model="text-embedding-tiny")
    assert seen.capabilities.embedding_width == 8
    assert finding(seen, "eviction")[:2] == (
        "ok",
        "when the embedding model isn't in memory it is loaded by name, which ends no reply",
    )
    assert "EMBEDDINGS=b" in finding(seen, "embeddings")[2]
    report = await examine([seen_as("b", misbehaving)], embeddings="b/text-embedding-tiny")
    assert "makes the memories' vectors" in finding(report.backends[0], "embeddings")[1]
    seen = await examined(misbehaving.url, embedding_model="llm-typed-embedder")
    assert not seen.works
    assert "text-embedding-" in finding(seen, "embeddings")[2]
    assert "type llm" in finding(seen, "eviction")[1]
    unlisted = await examined(misbehaving.url, embedding_model="shuffled")
    assert "Auto-Evict" in finding(unlisted, "eviction")[2]


async def test_two_chat_models_of_one_lm_studio_are_told_of(misbehaving: Misbehaving) -> None:
    other = BackendConfig(name="small", url=misbehaving.url, model="fast", tier="small")
    desk, small = (await examine([seen_as("desk", misbehaving), other])).backends
    assert finding(desk, "eviction")[0] == "warn"
    assert "small asks the same LM Studio" in finding(desk, "eviction")[1]
    assert "desk asks the same LM Studio" in finding(small, "eviction")[1]
    twin = (await examine([seen_as("desk", misbehaving), seen_as("twin", misbehaving)])).backends[0]
    assert not [found for found in twin.findings if found.topic == "eviction"]


async def test_a_server_that_is_not_there(misbehaving: Misbehaving) -> None:
    seen = await examined("http://127.0.0.1:9/v1")
    assert not seen.works
    assert "Developer tab" in finding(seen, "reachable")[2]


async def test_a_wrong_address_and_a_wrong_key_and_a_wrong_model(misbehaving: Misbehaving) -> None:
    wrong = await examined(misbehaving.root + "/elsewhere")
    assert "ends in /v1" in finding(wrong, "reachable")[2]
    unknown = await examined(misbehaving.url, "not-there")
    assert "set `model` to one of" in finding(unknown, "model")[2]
    refused = await examined(misbehaving.url, "key-refused", api_keys=("k",))
    assert not refused.works


def test_the_report_as_json_and_as_text(
    misbehaving: Misbehaving, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [
        BackendConfig(name="local", url=misbehaving.url, model="normal", api_keys=("sk-secret",)),
        BackendConfig(name="demo", kind="scripted"),
    ]
    assert main(configs, home=tmp_path, as_json=True) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["works"]
    assert [backend["name"] for backend in data["backends"]] == ["local", "demo"]
    assert data["backends"][0]["capabilities"]["prefill"] == "continues"
    assert "sk-secret" not in json.dumps(data)
    assert CapabilityStore(tmp_path / "capabilities.json", lambda: 0.0).get(misbehaving.url, "normal")

    assert main([configs[0], BackendConfig(name="gone", url="http://127.0.0.1:9", model="m")]) == 1
    text = capsys.readouterr().out
    assert "Not usable: gone" in text
    assert main([]) == 1
    assert "LMSTUDIO_URL" in capsys.readouterr().out


async def test_names_with_brackets_are_printed_as_they_are(misbehaving: Misbehaving) -> None:
    report = await examine([BackendConfig(name="b", url=misbehaving.url, model="[bold]x")])
    out = io.StringIO()
    show(report, Console(file=out, width=200))
    assert "[bold]x" in out.getvalue()


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/v1", "nobody listens"),
        ("http://no-such-host.invalid/v1", "not known"),
    ],
)
async def test_why_there_is_no_connection_is_told_in_plain_words(url: str, reason: str) -> None:
    assert reason in finding(await examined(url), "reachable")[1]


async def test_plain_http_behind_https_is_told(misbehaving: Misbehaving) -> None:
    seen = await examined(misbehaving.url.replace("http://", "https://"))
    assert "no secure connection" in finding(seen, "reachable")[1]


async def test_a_model_that_thinks_long_is_given_room(misbehaving: Misbehaving) -> None:
    seen = await examined(misbehaving.url, "thinks-too-long")
    assert (seen.capabilities.reasoning, seen.capabilities.structured) == ("field", "json_schema")
