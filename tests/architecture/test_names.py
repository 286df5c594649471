"""The generic names of our packages are ours alone, and shadow nothing."""

import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import memory
import migrations
import service
import sessions

CHECKOUT = Path(__file__).parents[2]


def test_no_dependency_ships_our_names() -> None:
    shipped = packages_distributions()
    foreign = {name: shipped[name] for name in ("service", "memory", "sessions", "migrations") if name in shipped}
    assert {name: owners for name, owners in foreign.items() if set(owners) != {"rapport-companion"}} == {}


def test_the_packages_are_those_of_this_checkout() -> None:
    for package in (memory, migrations, service, sessions):
        assert Path(str(package.__file__)).parents[1] == CHECKOUT


def test_no_module_shadows_the_standard_library() -> None:
    ours = {path.stem for root in ("service", "memory", "sessions") for path in (CHECKOUT / root).glob("*.py")}
    assert ours & (set(sys.stdlib_module_names) - {"__init__", "__main__"}) == set()
