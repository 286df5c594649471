"""Recognise a crisis in what a user writes, by reviewable rules; and say where people can help.

A seam: whatever finds more (a model, a service) is a function of the same form, asked beside the rules, never instead.
"""

import re
import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from service.errors import RapportError

DIRECTORY = Path(__file__).parent / "crisis"
GAP = r"(?: \w+){0,3}"
MOST_READ = 20_000
"""Characters of a message that are looked at; longer ones are cut in the middle."""


class RulesError(RapportError):
    """The crisis rules can't be used: the service must not start without a protocol."""

    code = "start_refused"


@dataclass(frozen=True, slots=True)
class Crisis:
    """What was found: in which language, by which protocol, and what to tell the user."""

    language: str
    protocol: str
    referral: str


Detector = Callable[[str], Crisis | None]


@dataclass(frozen=True, slots=True)
class CrisisRules:
    """The rules of one language."""

    language: str
    version: str
    referral: str
    resources: tuple[dict[str, str], ...]
    common: frozenset[str]
    """Words that tell the language apart from those which share a phrase with it."""
    pattern: re.Pattern[str]
    unless: re.Pattern[str] | None
    examples: tuple[str, ...]
    not_examples: tuple[str, ...]
    phrases: int

    @property
    def protocol(self) -> str:
        return f"rules-{self.language}-{self.version}"

    def matches(self, plain: str) -> bool:
        """`plain` as `plain_words` gives it."""
        if self.unless is not None:
            plain = self.unless.sub(" ", plain)
        return self.pattern.search(plain) is not None


def plain_words(text: str) -> str:
    """Words apart by one space: no case, accents, punctuation or invisible characters to hide behind."""
    if len(text) > MOST_READ:
        text = text[: MOST_READ // 2] + " " + text[-MOST_READ // 2 :]
    folded = unicodedata.normalize("NFKD", text).casefold()
    kept = []
    for character in folded:
        category = unicodedata.category(character)
        if category in {"Mn", "Cf"} or character in "'’`´":
            continue  # accents, zero-width characters and apostrophes join what they stand in
        kept.append(character if category[0] in "LN" else " ")
    return " ".join("".join(kept).split())


def load_rules(directory: Path = DIRECTORY) -> tuple[CrisisRules, ...]:
    """The rules of all languages in the directory. Raises `RulesError`, also when there are none."""
    rules = tuple(parse_rules(path) for path in sorted(directory.glob("*.toml")))
    if not rules:
        raise RulesError(f"{directory} holds no crisis rules")
    return rules


def parse_rules(path: Path) -> CrisisRules:
    """Raises `RulesError` for a file that is not whole, or that its own examples contradict."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
        referral, listed = document["referral"], document["rules"]
        resources = tuple(dict(resource) for resource in referral["resources"])
        rules = CrisisRules(
            language=str(document["language"]),
            version=str(document["version"]),
            referral=str(referral["text"]).format(resources="; ".join(_resource(one) for one in resources)),
            resources=resources,
            common=frozenset(plain_words(word) for word in listed["common"]),
            pattern=_compile(listed["phrases"]),
            unless=_compile(listed["unless"]) if listed.get("unless") else None,
            examples=tuple(listed.get("examples", ())),
            not_examples=tuple(listed.get("not_examples", ())),
            phrases=len(listed["phrases"]),
        )
    except (OSError, tomllib.TOMLDecodeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise RulesError(f"{path}: {type(error).__name__}: {error}") from error
    for example in rules.examples:
        if not rules.matches(plain_words(example)):
            raise RulesError(f"{path}: no rule recognises its example {example!r}")
    for example in rules.not_examples:
        if rules.matches(plain_words(example)):
            raise RulesError(f"{path}: a rule takes {example!r} for a crisis")
    return rules


def _resource(resource: dict[str, Any]) -> str:
    return f"{resource['name']} ({resource['region']}): {resource['contact']}"


def _compile(phrases: Sequence[str]) -> re.Pattern[str]:
    parts = []
    for phrase in phrases:
        words = [plain_words(piece) for piece in phrase.split("*")]
        if not all(words):
            raise ValueError(f"the phrase {phrase!r} begins or ends with *, or says nothing")
        parts.append((GAP + " ").join(re.escape(piece) for piece in words))
    # longest first, so that of two phrases where one begins the other the whole is taken out
    parts.sort(key=len, reverse=True)
    return re.compile(rf"(?<!\w)(?:{'|'.join(parts)})(?!\w)")


def detector(rules: Sequence[CrisisRules], *others: Detector) -> Detector:
    """Ask the rules of every language, then whoever else may find what they don't know."""

    def detect(text: str) -> Crisis | None:
        plain = plain_words(text)
        found_by = [one for one in rules if one.matches(plain)]
        if found_by:
            words = plain.split()
            nearest = max(found_by, key=lambda one: sum(word in one.common for word in words))
            return Crisis(nearest.language, nearest.protocol, nearest.referral)
        for other in others:
            if (found := other(text)) is not None:
                return found
        return None

    return detect
