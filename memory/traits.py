"""What a message looks like, whatever is asked: told by rule when it is stored, in English."""

import re


class Trait:
    """What a message looks like, whatever is asked, in bits. Bits 8 and 9 count the names in it, up to three.

    Plain numbers: an enumeration's operators would take longer than all other signals together.
    """

    ASKS = 1
    """It contains a question."""
    ANSWERS = 2
    """The message before it contains a question."""
    HAS_PHOTO = 4
    NAMES_TIME = 8
    HAS_NUMBER = 16
    STANDING = 32
    """It sets a rule or a preference that is meant to last: "Always …", "I prefer …"."""
    QUOTES = 64
    RULE = 128
    """It says what to do whenever something comes up: "Always …, when I ask about …"."""
    ACKNOWLEDGES = 1024
    """It begins with thanks or assent, and mostly says again what was said before it."""


NAMES_SHIFT = 8

TIME_WORD = re.compile(
    r"\b(yesterday|today|tonight|tomorrow|last|next|ago|week|weekend|month|years?|monday|tuesday|wednesday|thursday"
    r"|friday|saturday|sunday|january|february|march|april|june|july|august|september|october|november|december|20\d\d"
    r"|since|recently|few days|morning|evening)\b",
    re.IGNORECASE,
)
NUMBER = re.compile(
    r"\b(\d+|one|two|three|four|five|six|seven|eight|nine|ten|twice|once|couple|dozen)\b", re.IGNORECASE
)
# at the head of a sentence, as an order is: "I've never been there" is none
STANDING = re.compile(
    r"(?:^|[.!?\n]\s*|\bplease )(always|never)\b|\b(i(['’]d)? prefer|my preference|from now on|make sure (you|to)"
    r"|whenever i\b|don['’]t (ever|want)|please (don['’]t|do not))",
    re.IGNORECASE,
)
RULE = re.compile(
    r"(?:^|[.!?\n]\s*|\bplease )(always|never|remember to|make sure)\b[^.!?]*\bwhen(ever)? i\b|\bfrom now on",
    re.IGNORECASE,
)
ACKNOWLEDGES = re.compile(
    r"^\W*(thanks?|thank you|sure|got it|sounds? (good|great|like a)|that (sounds|makes)|yeah|yes|ok(ay)?|great|perfect"
    r"|cool|awesome|wow|nice|absolutely|definitely|no problem|you['’]re welcome|glad|haha|lol|aw+|hey|hi)\b",
    re.IGNORECASE,
)
CAPITALISED = re.compile(r"(?<![.!?\]] )(?<!^)\b[A-Z][a-z]{2,}")
NO_NAMES = frozenset(
    {"Thanks", "Yeah", "Yes", "The", "And", "But", "What", "How", "Wow", "That", "This", "You", "Your"}
)


def traits(text: str, speakers: frozenset[str] = frozenset()) -> int:
    """What a message's own text shows, with the names in it that are not the speakers'."""
    found = 0
    if "?" in text:
        found |= Trait.ASKS
    if "[photo: " in text:
        found |= Trait.HAS_PHOTO
    if TIME_WORD.search(text):
        found |= Trait.NAMES_TIME
    if NUMBER.search(text):
        found |= Trait.HAS_NUMBER
    if STANDING.search(text):
        found |= Trait.STANDING
    if RULE.search(text):
        found |= Trait.RULE
    if ACKNOWLEDGES.search(text):
        found |= Trait.ACKNOWLEDGES
    if '"' in text:
        found |= Trait.QUOTES
    names = {name for name in CAPITALISED.findall(text) if name.lower() not in speakers} - NO_NAMES
    return found | min(len(names), 3) << NAMES_SHIFT
