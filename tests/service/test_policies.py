"""The file of route policies: its examples, and every way in which it may contradict itself."""

from pathlib import Path

import pytest

import service
from service.policies import PolicyError, load_policies, parse_policies

EXAMPLES = sorted((Path(service.__file__).parents[1] / "deploy" / "routes").glob("*.toml"))
ROUTE = "[routes.general]\n"
LEVEL = '[levels.adult]\nmethods = ["document"]\nminimum_age = 18\n'


def test_the_built_in_routes_gate_mature_only() -> None:
    policies = load_policies(None)
    assert policies.gate.routes == ("general", "mature")
    assert policies.gate.needs == {"mature": "mature"}
    assert policies.default == "general"
    assert policies.gated_by("mature") == ("mature",)
    assert "self_declared" not in policies.levels["mature"].methods


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_load(path: Path) -> None:
    policies = load_policies(path)
    assert policies.version.endswith("-1")
    for route in policies.routes.values():
        assert route.assurance is not None or "mature" not in route.ratings


def test_there_are_three_examples_and_they_differ_in_whom_they_let_in() -> None:
    gates = {path.stem: load_policies(path).gate.needs for path in EXAMPLES}
    assert gates == {
        "general": {},
        "adults-only": {"adult": "adult"},
        "mixed": {"teen": "teen", "mature": "mature"},
    }


def test_without_a_version_the_content_is_the_version() -> None:
    one, same, other = (parse_policies(text) for text in (ROUTE, ROUTE, ROUTE + "minimum_age = 13\n"))
    assert one.version == same.version != other.version
    assert one.version.startswith("sha256:")


def test_a_route_may_name_its_backends() -> None:
    route = parse_policies(ROUTE + 'backends = ["local"]\n').routes["general"]
    assert route.allows_backend("local")
    assert not route.allows_backend("openai")
    assert parse_policies(ROUTE).routes["general"].allows_backend("anything")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no route"),
        ("routes = 3", "tables"),
        ("[routes]\ngeneral = 3", "tables"),
        (ROUTE + "[", "TOML"),
        (ROUTE + "assurence = 'adult'", "means nothing"),
        ("asurance = 'adult'\n" + ROUTE, "means nothing"),
        (LEVEL + "method = ['x']\n" + ROUTE, "means nothing"),
        (ROUTE + "assurance = 'adult'", "not described"),
        (ROUTE + "assurance = 18", "a text"),
        (ROUTE + "minimum_age = '13'", "a number"),
        (ROUTE + "minimum_age = true", "a number"),
        (ROUTE + "minimum_age = -1", "0 to 120"),
        (ROUTE + "ratings = ['nsfw']", "ratings"),
        (ROUTE + "ratings = 'everyone'", "list"),
        (ROUTE + "ratings = ['mature']", "nobody has proved"),
        (ROUTE + "backends = []", "no backend"),
        (ROUTE + "backends = [1]", "list"),
        ("default = 'other'\n" + ROUTE, "not among"),
        ('[routes."general/../mature"]\n', "not a name"),
        ("[levels.adult]\nmethods = []\n" + ROUTE, "methods"),
        ("[levels.adult]\nmethods = ['client_flag']\n" + ROUTE, "methods"),
        ("[levels.adult]\nmethods = ['self_declared']\nminimum_age = 18\n" + ROUTE, "no proof"),
        ("[levels.adult]\nmethods = ['document']\ndays = 0\n" + ROUTE, "days"),
        (
            (
                "[levels.teen]\nmethods = ['document']\nminimum_age = 13\n"
                "[routes.x]\nassurance = 'teen'\nratings = ['mature']"
            ),
            "nobody has proved",
        ),
    ],
)
def test_what_contradicts_itself_stops_the_start(text: str, complaint: str) -> None:
    with pytest.raises(PolicyError, match=complaint):
        parse_policies(text)


def test_a_file_that_is_not_there_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="can't be read"):
        load_policies(tmp_path / "absent.toml")
    (tmp_path / "bad.toml").write_text("x = 1")
    with pytest.raises(PolicyError, match=r"bad\.toml.*means nothing"):
        load_policies(tmp_path / "bad.toml")
