"""What can have one value at a time, and what hangs on it.

A slot is recognised by the form of the sentence, not by a model's category (which is unreliable, measured). It is
narrow on purpose: a slot that is too wide replaces facts that are still true.
"""

import hashlib
import re
from dataclasses import dataclass
from typing import Protocol

from memory import words


@dataclass(frozen=True, slots=True)
class Slot:
    name: str
    value: str


class Statement(Protocol):
    @property
    def kind(self) -> str: ...
    @property
    def topic(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def slot(self) -> str: ...


_WHO = (
    r"(?:the (?:user|companion)|der (?:nutzer|begleiter)|die (?:nutzerin|begleiterin)|el (?:usuario|compañero)|"
    r"la (?:usuaria|compañera)|l'utilisat(?:eur|rice)|le compagnon|la compagne|[^\W\d_]+)"
)
_NOW = r"(?:\s+(?:now|currently|just|has|have|recently|jetzt|nun|derzeit|ahora|actualmente|maintenant))*"
_REST = r"(?P<value>[^.;()]{1,120})"
_PATTERNS: tuple[tuple[str, str], ...] = (
    ("name", rf"^{_WHO}(?:'s)? (?:(?:first |full )?name is|is (?:called|named)|heißt|se llama|s'appelle) {_REST}"),
    ("name", rf"^(?:der name des nutzers ist|el nombre del usuario es|le nom de l'utilisateur est) {_REST}"),
    (
        "home",
        (
            rf"^{_WHO}{_NOW} (?:lives|live|is living|resides|moved|relocated|is based){_NOW}(?: back)? (?:in|to|"
            rf"at) {_REST}"
        ),
    ),
    ("home", rf"^{_WHO} (?:wohnt|lebt){_NOW} in {_REST}"),
    ("home", rf"^{_WHO} ist{_NOW} nach {_REST} (?:gezogen|umgezogen)"),
    ("home", rf"^{_WHO} (?:vive|reside){_NOW} en {_REST}"),
    ("home", rf"^{_WHO} se (?:ha mudado|mudó) a {_REST}"),
    ("home", rf"^{_WHO} (?:habite|vit|réside){_NOW} (?:à|en|au|dans) {_REST}"),
    ("home", rf"^{_WHO} a déménagé (?:à|en|au) {_REST}"),
    ("work", rf"^{_WHO}{_NOW} works{_NOW} (?:as|for|at) {_REST}"),
    ("work", rf"^{_WHO} arbeitet{_NOW} (?:als|bei|für) {_REST}"),
    ("work", rf"^{_WHO} trabaja{_NOW} (?:como|de|en|para) {_REST}"),
    ("work", rf"^{_WHO} travaille{_NOW} (?:comme|chez|pour) {_REST}"),
    ("age", rf"^{_WHO} is (?P<value>\d{{1,3}})(?: years old)?\.?$"),
    ("age", rf"^{_WHO} (?:ist (?P<a>\d{{1,3}}) jahre alt|tiene (?P<b>\d{{1,3}}) años|a (?P<c>\d{{1,3}}) ans)"),
    ("birthday", rf"^{_WHO}(?:'s)? birthday is (?:on )?{_REST}"),
    ("relationship", rf"^{_WHO} is{_NOW} (?P<value>single|married|engaged|divorced|widowed|in a relationship)\b"),
    (
        "partner",
        (
            rf"^{_WHO}(?:'s)? (?:husband|wife|partner|girlfriend|boyfriend|fiancée?)(?:'s name)? is (?:called |"
            rf"named )?{_REST}"
        ),
    ),
    ("favourite", rf"^{_WHO}(?:'s)? favou?rite (?P<what>[^.;]{{1,40}}?) (?:is|are)(?: now)? {_REST}"),
)
_SLOTS = tuple((name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _PATTERNS)
_DIET = re.compile(
    r"\b(?:vegetarian|vegan|pescatarian|omnivore|vegetarier(?:in)?|veganer(?:in)?|vegetarian[ao]|"
    r"végétarien(?:ne)?|végan[e]?)\b",
    re.IGNORECASE,
)
_TASTE = re.compile(
    rf"^{_WHO} (?:(?:really |no longer |doesn't |does not |can't |cannot )*)(?P<verb>loves?|likes?|enjoys?|"
    rf"adores?|hates?|dislikes?|detests?|stands?)(?: the)? {_REST}",
    re.IGNORECASE,
)
_APOSTROPHES = str.maketrans({"’": "'", "ʼ": "'"})


def slot_of(kind: str, text: str) -> Slot | None:
    """The slot that the sentence fills, with its value; open loops and facts about both have none."""
    if kind not in {"user", "companion"}:
        return None
    plain = " ".join(text.translate(_APOSTROPHES).split())
    for name, pattern in _SLOTS:
        if found := pattern.search(plain):
            groups = found.groupdict()
            value = next((group for key, group in groups.items() if key != "what" and group), "")
            detail = f":{_canonical(groups['what'])}" if groups.get("what") else ""
            return Slot(f"{name}{detail}", _clean(value))
    if _DIET.search(plain):
        return Slot("diet", ("not " if words.is_denial(plain) else "") + _DIET.findall(plain)[-1].lower())
    if found := _TASTE.search(plain):
        about = _canonical(found["value"])
        return Slot(f"taste:{about}", "not" if words.is_denial(plain) else "so") if about and len(about) <= 60 else None
    return None


def stored(slot: Slot | None, index: bytes) -> str:
    """The slot's name as a table holds it: what it is about, beyond its sort, only as a keyed digest."""
    if slot is None:
        return ""
    sort, colon, detail = slot.name.partition(":")
    return f"{sort}:{hashlib.blake2b(detail.encode(), key=index, digest_size=8).hexdigest()}" if colon else sort


def value_of(kind: str, text: str) -> str:
    slot = slot_of(kind, text)
    return slot.value if slot else ""


def _clean(value: str) -> str:
    return re.sub(
        r"\s+(?:now|currently|jetzt|ahora|maintenant|again|for work|with .*|since .*|because .*|and .*)$",
        "",
        value.strip(),
        flags=re.IGNORECASE,
    )


def _canonical(value: str) -> str:
    return " ".join(sorted(words.content(value)))


def same_value(name: str, first: str, second: str) -> bool:
    """Whether two values of a slot agree: "Lisbon" and "Lisbon, Portugal" do."""
    if name in {"age", "diet", "relationship"} or name.startswith("taste:"):
        return first.lower() == second.lower()
    mine, theirs = words.content(first), words.content(second)
    return bool(mine and theirs) and (mine <= theirs or theirs <= mine)


# --- topics, for lists and for what depends on what

_TOPICS: tuple[tuple[str, str], ...] = (
    ("health",
        (r"allerg\w*|doctor|hospital|surgery|illness|sick|diabet\w*|asthma|medic\w*|therap\w*|diagnos\w*|pregnan\w*|"
        r"arzt|krank\w*|operation|salud|médic\w*|enferm\w*|santé|médecin|maladie")),
    ("work",
        (r"works?|job|career|boss|colleague\w*|office|salary|company|employer|profession|promot\w*|arbeit\w*|beruf|"
        r"chef\w*|trabaj\w*|jefe|travail\w*|patron")),
    ("education",
        (r"school|university|college|exam|course|degree|studies|student|studiert|schule|prüfung|estudi\w*|examen|"
        r"école|études")),
    ("home",
        (r"lives?|moved|apartment|house|flat|neighbou?r\w*|rent|landlord|wohnt|umgezogen|wohnung|vive|casa|piso|"
        r"habite|appartement|maison|déménagé")),
    ("family",
        (r"mother|mum|mom|father|dad|sister|brother|son|daughter|parents?|grand\w+|aunt|uncle|cousin|family|baby|"
        r"kids?|children|mutter|vater|schwester|bruder|tochter|familie|madre|padre|herman[ao]|hij[ao]|familia|mère|"
        r"père|sœur|frère|fille|fils|famille")),
    ("relationship",
        (r"husband|wife|partner|girlfriend|boyfriend|married|wedding|engaged|divorced|single|dating|ehemann|ehefrau|"
        r"freundin|verheiratet|hochzeit|marido|esposa|novi[ao]|boda|mari|femme|mariage")),
    ("pets", r"dog|cat|puppy|kitten|pet|hamster|parrot|hund|katze|haustier|perr[ao]|gat[ao]|mascota|chien\w*|chat\w*"),
    ("food",
        (r"eats?|food|cook\w*|bak\w+|recipe|restaurant|vegetarian|vegan|coffee|tea|dinner|isst|kocht|come|cocina|"
        r"mange|cuisine")),
    ("travel", r"travel\w*|trip|flight|vacation|holiday|visit\w*|reist|reise|urlaub|viaj\w*|voyag\w*|vacances"),
    ("identity", r"name|years old|birthday|born|heißt|geboren|llama|años|s'appelle|né"),
    ("hobbies",
        (r"plays?|paint\w*|guitar|piano|violin|runs?|running|hik\w+|garden\w*|reads?|books?|game\w*|music|sport\w*|"
        r"yoga|dance\w*|spielt|malt|liest|juega|toca|pinta|joue|peint|lit")),
    ("tastes",
        (r"likes?|loves?|hates?|dislikes?|favou?rite|prefers?|enjoys?|mag|liebt|hasst|gusta|encanta|odia|aime|déteste|"
        r"préfère")),
)  # fmt: skip
_TOPIC = tuple((name, re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE)) for name, pattern in _TOPICS)


def topic_of(text: str) -> str:
    return next((name for name, pattern in _TOPIC if pattern.search(text)), "other")


_HANGS_ON = {
    "home": re.compile(
        r"\b(?:commut\w+|neighbou?r\w*|gym|landlord|rent|flatmate|roommate|doctor|dentist|gp|local|nearby|"
        r"around the corner|bus|tram|"
        r"school run|walks? to|cycles? to|drives? to|nachbar\w*|vermieter\w*|miete|pendelt|fitnessstudio|"
        r"vecin\w+|alquiler|gimnasio|voisin\w*|loyer|propriétaire)\b",
        re.IGNORECASE,
    ),
    "work": re.compile(
        r"\b(?:commut\w+|boss|manager|colleague\w*|coworker\w*|co-worker\w*|office|salary|shift\w*|team at work|"
        r"deadline|chef\w*|kolleg\w+|büro|gehalt|"
        r"jefe|compañer\w+ de trabajo|oficina|sueldo|patron\w*|collègue\w*|bureau|salaire)\b",
        re.IGNORECASE,
    ),
    "partner": re.compile(
        r"\b(?:in-laws?|mother-in-law|father-in-law|anniversary|wedding|honeymoon|hochzeit\w*|schwieger\w+|"
        r"aniversario|suegr\w+|beaux?-parents|belle-mère)\b",
        re.IGNORECASE,
    ),
    "relationship": re.compile(r"\b(?:in-laws?|wedding|honeymoon|anniversary|husband|wife|fiancée?)\b", re.IGNORECASE),
}


def depends(fact: Statement, changed: Statement) -> bool:
    """Whether a fact hangs on another whose slot got a new value: by its matter, or because it names the old value."""
    if fact.kind not in {changed.kind, "both"}:
        return False
    slot = changed.slot
    if slot not in _HANGS_ON:
        return False
    if _HANGS_ON[slot].search(fact.text):
        return True
    named = words.names(value_of(changed.kind, changed.text))
    return bool(named) and bool(named & words.names(fact.text)) and fact.slot == ""


def agrees(fact: Statement, new: Statement) -> bool:
    """Whether the fact names the new value already, and so was said with the change in mind."""
    named = words.names(value_of(new.kind, new.text))
    return bool(named) and bool(named & words.names(fact.text))
