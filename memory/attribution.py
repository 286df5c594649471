"""Who can know what a claim says: of the user nobody but the user, of the companion nobody but itself.

What the companion says of the user it recalled or guessed. A memory that learns it from there believes its own echo.
"""

import re

from memory import words
from memory.quotes import MARKS

SECOND = re.compile(
    r"\b(?:you|your|you're|yours|du|dein\w*|dich|dir|ihr|euer|tú|tu|tus|te|usted|vous|votre|vos|toi|ton|tes|ты|"
    r"твой|твоя|вы|ваш)\b|你|您|あなた|君",
    re.IGNORECASE,
)
# as subjects and owners only: "you told me" is not about me
FIRST = re.compile(
    r"\b(?:i|i'\w+|my|mine|myself|we|we're|we've|we'll|our|ours|ich|mein\w*|wir|unser\w*|yo|mi|mis|nosotros|nuestr\w+|"
    r"je|j'\w+|mon|ma|mes|notre|nos|я|мой|моя|моё|мои|мы|наш\w*|eu|meu|minha|io|mio|mia)\b|我|私|僕|俺",
    re.IGNORECASE,
)
_ME = re.compile(r"\b(?:me|mich|mir|moi)\b", re.IGNORECASE)
_YOURS = re.compile(
    r"\b(?:your|yours|dein\w*|euer|eure\w*|tu|tus|su|sus|votre|vos|ton|ta|tes|твой|твоя|ваш\w*)\b|你的|您的|あなたの",
    re.IGNORECASE,
)
_MINE = re.compile(
    r"\b(?:my|mine|our|ours|mein\w*|unser\w*|mi|mis|nuestr\w+|mon|ma|mes|notre|nos|мой|моя|моё|мои|наш\w*)\b|我的|私の",
    re.IGNORECASE,
)
_OWNS = re.compile(
    r"(?:companion|user)(?:'s|’s)\b|\bdes (?:nutzers|begleiters)\b|\b(?:del (?:usuario|compañero)|"
    r"de l'utilisat\w+|du compagnon)\b",
    re.IGNORECASE,
)
# "Then try to be productive": what somebody else should do, or nobody said of whom
_IMPERATIVE = re.compile(
    r"^\W*(?:(?:then|just|so|please|first|now|and|but|well|ok|okay|yeah|also)[\s,]+)*"
    r"(?:try|go|do|be|take|get|make|let|let's|remember|keep|stop|check|look|tell|give|come|enjoy|think|don't|never mind|"
    r"have (?:a|fun)|say|ask|call|send|read|watch|stay)\b",
    re.IGNORECASE,
)

# --- whose claim it is

_USER = (
    r"(?:\b(?:users?|(?:be)?nutzer(?:in|s)?|usuari[oa]|utilisat(?:eur|rice)|utente|usuári[oa]|gebruiker|пользовател\w*)\b"
    r"|用户|使用者|ユーザー|사용자)"
)
_COMPANION = (
    r"(?:\b(?:companions?|begleiter(?:in|s)?|compañer[oa]|compagn(?:on|e|[oa])|companheir[oa]|собеседни\w*)\b"
    r"|同伴|伙伴|コンパニオン|相棒)"
)
_THE = r"(?:\b(?:the|der|die|den|dem|das|el|la|le|il|lo)\s+|\bl')?"
_AND = r"\s*(?:\b(?:and|und|y|et|e|и)\b|[和与と])\s*"
_MENTION = re.compile(rf"(?P<user>{_USER})|(?P<companion>{_COMPANION})", re.IGNORECASE)
_TOGETHER = re.compile(
    rf"^\W*{_THE}(?:{_USER}{_AND}{_THE}{_COMPANION}|{_COMPANION}{_AND}{_THE}{_USER})(?!')", re.IGNORECASE
)
# somebody's companion is no companion that talks: in Spanish and French a partner is called so
_OF_THE_USER = re.compile(
    rf"^\W*{_THE}{_COMPANION}(?:'s\s+{_USER}|(?:\s+\w+){{0,2}}\s+(?:of the user|des nutzers|der nutzerin|del usuario|"
    r"de la usuaria|de l'utilisat\w+|dell'utente|do usuário|da usuária)\b)",
    re.IGNORECASE,
)
_NEXT = (
    r"(?:[,;.:]\s*|\b(?:and|but|while|that|because|since|und|aber|während|dass|weil|y|pero|mientras|porque|et|mais|tandis|"
    r"que|qu')\s*)"
)
_OF_THE_OTHER = {
    "assistant": re.compile(rf"{_NEXT}{_THE}{_USER}", re.IGNORECASE),
    # with its article: a husband and companion is no other
    "user": re.compile(rf"{_NEXT}\b(?:the|der|die|el|la|le)\s+{_COMPANION}", re.IGNORECASE),
}


def _plain(claim: str, companion: str) -> str:
    """The claim with the companion called what it is, and not by its name."""
    plain = claim.translate(MARKS)
    name = companion.translate(MARKS).strip()
    if not name or re.search(_USER, name, re.IGNORECASE):
        return plain
    edge = r"\b" if name.isascii() else ""
    return re.sub(rf"{edge}{re.escape(name)}{edge}", "companion", plain)


def _subject(plain: str) -> str:
    if _TOGETHER.match(plain):
        return "both"
    if _OF_THE_USER.match(plain):
        return "user"
    found = _MENTION.search(plain)
    return "" if found is None else str(found.lastgroup)


def speakers_of(kind: str) -> tuple[str, ...]:
    """Nobody else tells what somebody is like: the companion's word about the user is what it recalled, or a guess."""
    return {"user": ("user",), "companion": ("assistant",)}.get(kind, ("user", "assistant"))


def foreign(role: str, kind: str, claim: str, companion: str) -> bool:
    """Whether the claim is about somebody of whom this speaker can't know: the kind that a model gave it proves nothing.

    The user may speak of sisters and cities, so that only the companion is not the user's to tell. What the companion
    tells is about itself, or about itself and the user together.
    """
    if role not in speakers_of(kind):
        return True
    plain = _plain(claim, companion)
    subject = _subject(plain)
    if (subject == "companion") if role == "user" else (subject not in {"companion", "both"}):
        return True
    return bool(_OF_THE_OTHER[role].search(_TOGETHER.sub("", plain)))


# --- what the speaker says of the other, behind an "I" of its own

_ADVERB = r"(?:(?:also|both|still|do|did|really|just|always|never|well|so|very|ja|noch|auch|sehr|muy|bien|aún|très|encore|bien)\s+)*"
_FRAMES = re.compile(
    rf"\b(?:i|we)\s+{_ADVERB}(?:(?:remember|recall|know|knew|heard)(?!\s+(?:\w+ing|how to)\b)|noticed|gather|hope|wonder|"
    r"(?:talked|spoke|chatted) (?:about|of)|discussed)\b"
    rf"|\b(?:i\s+am|i'm|i\s+was)\s+{_ADVERB}(?:curious|wondering|sure|aware|hoping)\b"
    r"|\bich\s+(?:weiß|weiss|erinnere mich|hoffe|hab\w* gehört|frage mich|bin (?:\w+ )?(?:gespannt|neugierig|sicher))"
    r"(?=\W|$)|\bwir\s+(?:haben|hatten)\s+(?:über|von)\b|\bwir sprachen\b"
    r"|\b(?:yo\s+)?(?:sé|recuerdo|me acuerdo|espero|me pregunto|tengo curiosidad|oí|he oído|estoy segur[oa])\s+"
    r"(?:que|de|por|cómo|si|tu|tus)\b|\b(?:hablamos|hemos hablado|habíamos hablado|charlamos)\s+(?:de|del|sobre)\b"
    r"|\bje\s+(?:sais|me souviens|me rappelle|me demande|suis (?:\w+ )?(?:curieu\w+|sûre?))\b|\bj'(?:espère|ai entendu)\b"
    r"|\b(?:nous avons|on a)\s+(?:\w+\s+)?parlé\b",
    re.IGNORECASE,
)
"""How somebody says that they recall, hope or wonder: an "I" that makes the rest no more theirs."""
_GUESSES = re.compile(
    rf"\b(?:i|we)\s+{_ADVERB}(?:think|thought|believe|guess|bet|suppose|imagine|understand|see)\b"
    rf"|\b(?:i\s+am|i'm)\s+{_ADVERB}(?:glad|happy|sorry|excited|proud)\b"
    r"|\bich\s+(?:glaube|denke|vermute|freue mich)\b|\b(?:creo|supongo|me alegro de) que\b|\bje\s+(?:crois|pense|suppose)\b",
    re.IGNORECASE,
)
_RECALLS = re.compile(
    rf"^\W*{_THE}(?:{_COMPANION}|{_USER})(?:{_AND}{_THE}(?:{_COMPANION}|{_USER}))?\s+(?:\w+ )?"
    r"(?:remembers?|knows?|recalls?|heard|noted|noticed|is aware|(?:was|is) told|learned|believes?|thinks?|hopes?|wonders?|"
    r"is curious|(?:talked|spoke|chatted) (?:about|of)|discussed|weiß|wissen|kennt|erinnert sich|hofft|fragt sich|"
    r"hat gehört|haben (?:über|von)|recuerdan?|saben?|se acuerdan?|esperan?|se pregunta|hablaron|han hablado|"
    r"sait|savent|se souvien\w+|se rappell\w+|espère|se demande|ont parlé)\b",
    re.IGNORECASE,
)
_PHATIC = re.compile(
    r"\b(?:as )?you know\b|\bthank you\b|\bwie du weißt\b|\bcomo sabes\b|\bcomme tu sais\b", re.IGNORECASE
)
_CLAUSE = re.compile(
    r"[,;:.!?](?:\s+|$)|[。，！？；、]|\s+-\s+|\s+(?:and|but|while|so|und|aber|y|pero|et|mais|и|но|а)\s+"
    r"(?=(?:you|your|you're|du|dein\w*|ihr|tú|tu|tus|usted|vous|votre|vos|ton|ты|i|i'm|we|my|ich|wir|yo|je)\b)",
    re.IGNORECASE,
)


def about_the_other(role: str, kind: str, claim: str, before: str, quote: str, companion: str) -> str:
    """Whether the quote speaks of the one who is spoken to, which its speaker recalls or guesses; why, or nothing.

    `before` is what its sentence says before it: a quote may begin after the "I recall".
    """
    if role == "assistant" and _RECALLS.search(_plain(claim, companion)):
        return "recalled"
    sentence = f"{before}{quote}".translate(MARKS)
    said, left = sentence[len(before) :], _blank(_GUESSES, _blank(_FRAMES, sentence))[len(before) :]
    own = bool(FIRST.search(left)) or (left != said and role == "user" and bool(_ME.search(left)))
    if (SECOND.search(said) or _IMPERATIVE.match(said)) and not own:
        return "second_person"
    if _OWNS.search(claim) and _YOURS.search(said) and not _MINE.search(said):
        return "second_person"
    # "I like jazz, and you are allergic to peanuts": what counts is the clause that the claim is made of
    told = _telling(claim, said)
    owned = any(
        FIRST.search(left[start:end]) or (role == "user" and _ME.search(left[start:end])) for start, end in told
    )
    if not owned and all(SECOND.search(_PHATIC.sub(" ", said[start:end])) for start, end in told):
        return "second_person"
    # what lies ahead of the companion it promises, and who promises says "I"
    recalled = kind == "open_loop" or _FRAMES.search(sentence)
    return "recalled" if role == "assistant" and recalled and not owned else ""


def _telling(claim: str, said: str) -> list[tuple[int, int]]:
    """Where the clauses stand that have the most in common with the claim; the whole where none has anything."""
    breaks = [0, *(at for found in _CLAUSE.finditer(said) for at in found.span()), len(said)]
    parts = list(zip(breaks[::2], breaks[1::2], strict=True))
    about = words.content(claim)
    shared = [words.shared(about, words.content(said[start:end])) for start, end in parts]
    return [part for part, number in zip(parts, shared, strict=True) if number == max(shared) > 0] or [(0, len(said))]


def _blank(pattern: re.Pattern[str], text: str) -> str:
    """The text with what matches made spaces, so that all else stays where it is."""
    return pattern.sub(lambda found: " " * len(found[0]), text)
