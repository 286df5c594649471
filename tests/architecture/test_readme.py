"""The README's table of settings is made from the settings themselves."""

import re
from pathlib import Path

from service.settings import Settings

CHECKOUT = Path(__file__).parents[2]


def table() -> str:
    rows = ["| variable | default | |", "|---|---|---|"]
    for field in Settings.model_fields.values():
        if field.alias in {"RAPPORT_INSTANCE", "RAPPORT_EMBEDDED"}:
            continue
        default = "" if field.default_factory else _shown(field.default)
        rows.append(f"| `{field.alias}` | {default} | {field.description or ''} |")
    return "\n".join(rows)


def _shown(value: object) -> str:
    if hasattr(value, "get_secret_value"):
        value = value.get_secret_value()
    if value in (None, "", ()):
        return ""
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def test_every_setting_stands_in_the_readme() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    found = re.search(r"<!-- configuration -->\n(.*?)\n?<!-- /configuration -->", readme, re.DOTALL)
    assert found is not None
    assert found[1].strip() == table(), "run: python -m tests.architecture.write_readme"


def test_every_setting_says_what_it_is() -> None:
    silent = [field.alias for field in Settings.model_fields.values() if not field.description]
    assert silent == []


def test_every_page_that_is_linked_is_there() -> None:
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    links = [link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link]
    assert links
    assert [link for link in links if not (CHECKOUT / link).exists()] == []
