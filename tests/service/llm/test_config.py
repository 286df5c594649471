from pathlib import Path

import pytest

from service.llm.config import BackendConfigError, base_url, parse_backends, simple_backends

JSON = '[{"name": "local", "url": "http://localhost:1234", "model": "qwen"}, {"name": "s", "kind": "scripted"}]'
TOML = """
[[backends]]
name = "local"
url = "http://localhost:1234"
model = "qwen"
timeouts = { first_token = 30 }

[[backends]]
name = "s"
kind = "scripted"
"""


@pytest.mark.parametrize("text", [JSON, TOML, '{"backends": ' + JSON + "}"])
def test_inline_forms_are_read_alike(text: str) -> None:
    local, scripted = parse_backends(text)
    assert (local.name, local.url, local.model) == ("local", "http://localhost:1234/v1", "qwen")
    assert local.routes == ("general", "mature")
    assert scripted.kind == "scripted"


@pytest.mark.parametrize(("name", "text"), [("b.toml", TOML), ("b.json", JSON), ("with space.toml", TOML)])
def test_a_path_names_a_file(name: str, text: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(text)
    assert [config.name for config in parse_backends(str(path))] == ["local", "s"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[{]", "not JSON at line 1"),
        ("[[backends]]\nname = ", "not TOML"),
        ("/nowhere/at/all.toml", "can't read /nowhere/at/all.toml"),
        ("[]", "lists no backend"),
        ("7 = 7\n", "expected a list"),
        ('[{"url": "http://x"}]', "entry 1: name: Field required"),
        ('[{"name": "a"}]', "entry 1 (a): entry: url is required"),
        ('[{"name": "a", "url": "ftp://x"}]', "entry 1 (a): url: not an http(s) address"),
        ('[{"name": "a", "url": "http://x", "max_concurency": 3}]', "max_concurency: Extra inputs are not permitted"),
        ('[{"name": "a", "url": "http://x", "tier": "huge"}]', "tier: Input should be 'large' or 'small'"),
        ('[{"name": "a", "url": "http://x", "timeouts": {"first_token": 0}}]', "timeouts.first_token: "),
        ('[{"name": "a", "url": "http://x"}, {"name": "a", "url": "http://y"}]', "two backends are named 'a'"),
        ('[{"name": "a", "url": "http://x", "api_key": "${NOPE}"}]', "${NOPE} is not set"),
        ('[{"name": "a", "url": "http://x", "api_keys": ["a b"]}]', "api_keys: an API key"),
    ],
)
def test_an_error_names_the_entry_and_the_field(text: str, told: str) -> None:
    with pytest.raises(BackendConfigError) as raised:
        parse_backends(text)
    assert told in str(raised.value)


def test_keys_come_from_variables_and_stay_out_of_sight() -> None:
    (config,) = parse_backends('[{"name": "a", "url": "http://x", "api_key": "${KEY}"}]', {"KEY": "sk-secret"})
    assert config.api_keys == ("sk-secret",)
    assert "sk-secret" not in repr(config)


@pytest.mark.parametrize(
    ("given", "normal"),
    [
        ("localhost:1234", "http://localhost:1234/v1"),
        ("http://localhost:1234/", "http://localhost:1234/v1"),
        ("http://localhost:1234/v1/chat/completions", "http://localhost:1234/v1"),
        ("https://api.openai.com/v1/", "https://api.openai.com/v1"),
        ("https://gateway.example/openai/deployments/x", "https://gateway.example/openai/deployments/x"),
    ],
)
def test_addresses_are_taken_as_people_paste_them(given: str, normal: str) -> None:
    assert base_url(given) == normal


def test_one_variable_alone_is_enough() -> None:
    (openai,) = simple_backends(openai_api_key="sk-1")
    assert (openai.url, openai.api_keys, openai.is_openai, openai.is_local) == (
        "https://api.openai.com/v1",
        ("sk-1",),
        True,
        False,
    )
    (lmstudio,) = simple_backends(lmstudio_url="http://localhost:1234")
    assert (lmstudio.url, lmstudio.model, lmstudio.is_local) == ("http://localhost:1234/v1", "", True)
    assert [config.name for config in simple_backends(openai_api_key="sk-1", lmstudio_url="http://x")] == [
        "lmstudio",
        "openai",
    ]
    assert simple_backends() == ()
