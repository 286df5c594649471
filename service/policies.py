"""Routes: named policies that say who may talk how, with which models. Read once from a TOML file; deny by default."""

import hashlib
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from memory.gates import Gate
from service.errors import RapportError

METHODS = frozenset({"document", "face_estimate", "credit_card", "bank", "app_store", "operator", "self_declared"})
RATINGS = ("everyone", "teen", "mature")
WEAK_METHODS = frozenset({"self_declared"})

T = TypeVar("T")


class PolicyError(RapportError):
    """The file of route policies contradicts itself: the service must not start with it."""

    code = "start_refused"


@dataclass(frozen=True, slots=True)
class AssuranceLevel:
    """What counts as proof of an age."""

    name: str
    methods: frozenset[str]
    minimum_age: int
    days: int
    """How long a proof holds at most, whatever its provider says."""


@dataclass(frozen=True, slots=True)
class RoutePolicy:
    name: str
    assurance: str | None
    """The level a user must have proved; None lets everybody in."""
    backends: tuple[str, ...] | None
    """The only backends that may answer, fail-over included; None leaves all that are configured."""
    ratings: frozenset[str]
    """Ratings of characters that may appear."""
    minimum_age: int
    """Whoever is known to be younger is refused; the unknown are let in where no level is asked for."""

    def allows_backend(self, name: str) -> bool:
        return self.backends is None or name in self.backends


@dataclass(frozen=True)
class Policies:
    version: str
    """Stored with every age assurance, to tell later under which rules it was given."""
    default: str
    routes: Mapping[str, RoutePolicy]
    levels: Mapping[str, AssuranceLevel]

    @cached_property
    def gate(self) -> Gate:
        """What the accept statement checks."""
        needs = {route.name: route.assurance for route in self.routes.values() if route.assurance is not None}
        ages = {route.name: route.minimum_age for route in self.routes.values() if route.minimum_age}
        return Gate(routes=tuple(self.routes), needs=needs, ages=ages)

    def open_routes(self, proved: Collection[str], oldest: int | None) -> list[str]:
        """The routes of somebody who has proved these levels and is known to be no older than `oldest`."""
        return [
            route.name
            for route in self.routes.values()
            if (route.assurance is None or route.assurance in proved)
            and (oldest is None or oldest >= route.minimum_age)
        ]

    def gated_by(self, level: str) -> tuple[str, ...]:
        """The routes that a user loses with this level."""
        return tuple(route.name for route in self.routes.values() if route.assurance == level)


BUILT_IN = """
version = "built-in-1"
default = "general"

[levels.mature]
methods = ["document", "face_estimate", "credit_card", "bank", "app_store", "operator"]
minimum_age = 18
days = 365

[routes.general]
ratings = ["everyone", "teen"]
minimum_age = 13

[routes.mature]
assurance = "mature"
ratings = ["everyone", "teen", "mature"]
minimum_age = 18
"""


def load_policies(path: Path | None) -> Policies:
    """The policies of the file, or the built-in routes "general" and "mature". Raises `PolicyError`."""
    if path is None:
        return parse_policies(BUILT_IN)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PolicyError(f"RAPPORT_ROUTES: {path} can't be read: {error}") from error
    try:
        return parse_policies(text)
    except PolicyError as error:
        raise PolicyError(f"RAPPORT_ROUTES: {path}: {error}") from error


def parse_policies(text: str) -> Policies:
    """Raises `PolicyError`, also for a key that it doesn't know: a misspelt rule must not be a missing rule."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise PolicyError(f"not TOML: {error}") from error
    _only(document, {"version", "default", "routes", "levels"}, "the file")
    levels = {name: _level(name, table) for name, table in _tables(document, "levels").items()}
    routes = {name: _route(name, table, levels) for name, table in _tables(document, "routes").items()}
    if not routes:
        raise PolicyError("there is no route")
    default = _typed(document, "default", str, next(iter(routes)), "the file")
    if default not in routes:
        raise PolicyError(f"the default route {default!r} is not among them")
    digest = "sha256:" + hashlib.sha256(text.encode()).hexdigest()[:16]
    version = _typed(document, "version", str, digest, "the file")
    return Policies(version, default, MappingProxyType(routes), MappingProxyType(levels))


def _level(name: str, table: Mapping[str, Any]) -> AssuranceLevel:
    place = f"the level {name!r}"
    _only(table, {"methods", "minimum_age", "days"}, place)
    methods = frozenset(_strings(table, "methods", place) or ())
    if not methods or not methods <= METHODS:
        raise PolicyError(f"{place}: methods are some of {', '.join(sorted(METHODS))}")
    minimum_age = _age(table, place)
    if minimum_age >= 18 and methods & WEAK_METHODS:
        raise PolicyError(f"{place}: what users declare of themselves is no proof of being {minimum_age}")
    days = _typed(table, "days", int, 365, place)
    if not 1 <= days <= 3660:
        raise PolicyError(f"{place}: days must be 1 to 3660")
    return AssuranceLevel(name, methods, minimum_age, days)


def _route(name: str, table: Mapping[str, Any], levels: Mapping[str, AssuranceLevel]) -> RoutePolicy:
    place = f"the route {name!r}"
    _only(table, {"assurance", "backends", "ratings", "minimum_age"}, place)
    assurance = _typed(table, "assurance", str, "", place) or None
    if assurance is not None and assurance not in levels:
        raise PolicyError(f"{place} needs the level {assurance!r}, which is not described")
    ratings = frozenset(_strings(table, "ratings", place) or ("everyone",))
    if not ratings <= set(RATINGS):
        raise PolicyError(f"{place}: ratings are some of {', '.join(RATINGS)}")
    if "mature" in ratings and (assurance is None or levels[assurance].minimum_age < 18):
        raise PolicyError(f"{place} shows mature characters to people whose age nobody has proved")
    backends = _strings(table, "backends", place)
    if backends is not None and not backends:
        raise PolicyError(f"{place} has no backend that may answer")
    return RoutePolicy(name, assurance, backends, ratings, _age(table, place))


def _tables(document: Mapping[str, Any], key: str) -> dict[str, Mapping[str, Any]]:
    tables = document.get(key, {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise PolicyError(f"{key} must be tables like [{key}.general]")
    for name in tables:
        if not name.isidentifier() or len(name) > 40:
            raise PolicyError(f"{name!r} is not a name: use letters, digits and _")
    return tables


def _only(table: Mapping[str, Any], known: set[str], place: str) -> None:
    if unknown := set(table) - known:
        raise PolicyError(f"{place} has {', '.join(sorted(unknown))}, which means nothing here")


def _typed(table: Mapping[str, Any], key: str, kind: type[T], default: T, place: str) -> T:
    value = table.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise PolicyError(f"{place}: {key} must be {'a number' if kind is int else 'a text'}")
    return value


def _age(table: Mapping[str, Any], place: str) -> int:
    age = _typed(table, "minimum_age", int, 0, place)
    if not 0 <= age <= 120:
        raise PolicyError(f"{place}: minimum_age must be 0 to 120")
    return age


def _strings(table: Mapping[str, Any], key: str, place: str) -> tuple[str, ...] | None:
    value = table.get(key)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise PolicyError(f"{place}: {key} must be a list of texts")
    return tuple(value)
