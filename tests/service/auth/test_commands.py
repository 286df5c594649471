"""`rapport key`: from the command line to a request that the key lets in."""

from collections.abc import Callable

import httpx
import pytest
from typer.testing import CliRunner

from service import cli
from tests.fixtures.service import LiveService
from tests.service.auth.conftest import bearer


def test_a_key_is_made_used_listed_and_revoked(
    live_service: LiveService, monkeypatch: pytest.MonkeyPatch, service_factory: Callable[..., LiveService]
) -> None:
    for name, value in live_service.environment.items():
        monkeypatch.setenv(name, value)
    runner = CliRunner()
    made = runner.invoke(
        cli.app, ["key", "create", "backend", "--issuer", "https://app.example", "--scope", "impersonate"]
    )
    assert made.exit_code == 0, made.output
    token = made.output.split()[-1]
    answer = httpx.get(f"{live_service.url}/v1/session", headers=bearer(token, **{"X-Rapport-User": "alice"}))
    assert answer.json()["subject"] == "alice"
    listed = runner.invoke(cli.app, ["key", "list"])
    assert "backend" in listed.output
    assert token[20:] not in listed.output
    key_id = token.split("_")[1]
    assert runner.invoke(cli.app, ["key", "revoke", key_id]).exit_code == 0
    assert runner.invoke(cli.app, ["key", "revoke", key_id]).exit_code == 1
    assert runner.invoke(cli.app, ["key", "create", "backend", "--scope", "root"]).exit_code == 2


@pytest.mark.parametrize(
    ("variable", "value"),
    [("RATE_LIMITS", "nonsense"), ("RAPPORT_ROUTES", "/absent.toml"), ("CRISIS_RULES", "/absent")],
)
def test_a_wrong_setting_is_a_sentence_and_no_traceback(
    service_factory: Callable[..., LiveService], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    service = service_factory(**{variable: value})
    with pytest.raises(AssertionError) as refused:
        service.start()
    said = str(refused.value)
    assert variable.removeprefix("RAPPORT_") in said or value in said
    assert "Traceback" not in said
