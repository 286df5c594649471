"""Only the names in the README's table are read from the environment."""

import pytest

from service.settings import Settings, default_home


def test_a_variable_of_everybody_is_none_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """`HOME`, `HOST` and `PORT` are set on many machines; a field of that name must not take them."""
    unused = {"HOME": "/nowhere", "HOST": "192.0.2.1", "PORT": "1", "INSTANCE": "theirs", "LOG": "debug"}
    for name, value in unused.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.home == default_home()
    assert settings.port == 8000
    assert settings.host == "127.0.0.1"
    assert settings.instance != "theirs"


def test_every_setting_has_the_name_under_which_operators_set_it() -> None:
    for name, field in Settings.model_fields.items():
        assert field.alias is not None, name
        assert field.alias.isupper(), name
        assert field.alias.lower() != name or "_" in name, f"{name} would be read from a variable of everybody's"
