"""The gate between what a model claims and what memory believes.

A claim passes when its quote is literally in a message of the right speaker, said in earnest (no question, no
"if", nobody else's words), and when every number, date and name of the claim stands in that quote. Better no fact
than a wrong one: whatever is unclear is refused, and counted by reason.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from memory import deadlines, temporal, words
from memory.attribution import FIRST, about_the_other, foreign
from memory.extraction import Candidate, Said
from memory.quotes import MARKS, enclosing, locate, others_words, sentence_of
from memory.refusals import refusal

QUOTE_CHARS = 400
TEXT_CHARS = 240
LEAST_SHARED = 1 / 2
"""Share of a claim's content words that its quote has to have."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What the messages of one conversation have in common."""

    time_zone: str = "UTC"
    names: tuple[str, ...] = ()
    """Of the two who talk: a claim may name them without the quote doing so."""
    companion: str = ""


@dataclass(frozen=True, slots=True)
class Supported:
    """A claim with its proof."""

    kind: str
    text: str
    quote: str
    message: Said
    valid_from: datetime
    due_at: datetime | None


@dataclass(frozen=True, slots=True)
class Refused:
    reason: str


# --- what the speaker means by it

_UNREAL = re.compile(
    r"\b(?:if (?:i|we|my|he|she|they|you|only)|i wish|wish i|as if|as though|imagine|pretend|suppose|hypothetically|"
    r"would(?:n't)? (?:love|like|be|have|rather|want)|i'd (?:love|like|rather|be|have)|might|maybe|perhaps|"
    r"could have|should have|must (?:be|have|feel)|wanna|kinda want|technically|"
    r"just kidding|kidding|joking|in my dream|i dreamt|i dreamed|thinking (?:of|about)|considering|"
    r"wenn ich|falls ich|ich wünschte|hätte|wäre|würde|vielleicht|stell dir vor|angenommen|als ob|"
    r"si (?:yo|tuviera|fuera|pudiera|viviera)|ojalá|imagina|quizás|quizá|tal vez|me gustaría|como si|"
    r"si j[e']|si j'avais|si j'étais|imagine que|peut-être|j'aimerais|je voudrais|comme si)\b"
    r"|もし|かもしれ|如果|假如|也许|要是|если бы|может быть|возможно",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"[?？؟]\s*[\"'”’)]*\s*$")


def _insincere(quote: tuple[int, int], text: str) -> str:
    """Why the words around the quote do not state anything, or nothing."""
    start, end = enclosing(quote, text)
    sentence = text[start:end]
    if _QUESTION.search(sentence):
        # "My name is Ana, and yours?": the statement stands before the question's own clause
        rest = text[quote[1] : end]
        if not re.match(r"\s*[,;:—–.-]\s*\w", rest) or not FIRST.search(text[quote[0] : quote[1]]):
            return "question"
    if _UNREAL.search(text[start : quote[1]].translate(MARKS)):
        return "hypothetical"
    return ""


# --- what the claim says beyond the quote


_NAMED = re.compile(
    r"\b(?:user|companion)(?:'s|’s) name is\b|\bname des nutzers ist\b|\bnutzer(?:in)? heißt\b|"
    r"\busuari[oa] se llama\b|\butilisat(?:eur|rice) s'appelle\b",
    re.IGNORECASE,
)
_INTRODUCES = re.compile(
    r"\b(?:my (?:\w+ )?name(?:'s| is)|i'm|i am|im|call me|it's|this is|mein name ist|ich bin|ich heiße|nenn mich|"
    r"me llamo|mi nombre es|soy|je m'appelle|"
    r"mon nom est|je suis|appelle-moi|меня зовут)\b|我叫|我是|私は",
    re.IGNORECASE,
)


def _introduced(claim: str, quote: str) -> bool:
    """Whether the speaker says the claim's name right behind "I'm" or "my name is"."""
    named = words.tokens(claim[next(_NAMED.finditer(claim)).end() :])[:1]
    for found in _INTRODUCES.finditer(quote.translate(MARKS)):
        said = words.tokens(quote[found.end() :])[:2]
        if said[:1] == named or (said[1:] == named and said[0] in _FILLERS):
            return True
    return False


_FILLERS = frozenset({"just", "actually", "really", "called", "still", "nur", "eigentlich", "solo", "juste"})


def _dates_said(quote: str, said_at: datetime, time_zone: str) -> str:
    """The quote's dates written out: what a claim may say instead of "yesterday"."""
    day = temporal.local_day(said_at, time_zone)
    spans = temporal.resolve(quote, said_at, time_zone)
    written = [f"{span} {span.first.isoformat()} {span.first:%A}" for span in spans]
    return " ".join([*written, str(day.year) if spans else ""])


def _unsupported(claim: str, quote: str, dates: str, setting: Setting) -> str:
    """Which part of the claim the quote does not bear out, or nothing."""
    basis = f"{quote} {dates}"
    if not words.numbers(claim) <= words.numbers(basis):
        return "number"
    known = words.names(basis) | {word for name in setting.names for word in words.tokens(name)}
    spoken = set(words.tokens(basis))
    for name in words.names(claim):
        if not (name in known or name in spoken or any(words.same_name(name, other) for other in spoken)):
            return "date" if name in temporal.MONTHS or name in temporal.WEEKDAYS else "name"
    if words.dangles(claim, quote):
        return "dangling"
    if words.is_passing(claim):
        return "passing"
    if words.reports_speech(claim):
        return "speech"
    if _NAMED.search(claim) and not _introduced(claim, quote):
        # "Hey Ana!" names somebody, but not the one who says it; "I'm from Houston" nobody
        return "name"
    unspoken = {word for name in setting.names for word in words.tokens(name)} - spoken
    content = words.content(claim) - unspoken
    if content and words.shared(content, words.content(basis)) < max(1, LEAST_SHARED * len(content)):
        return "unrelated"
    return ""


def check(candidate: Candidate, messages: list[Said] | tuple[Said, ...], setting: Setting) -> Supported | Refused:
    """Decide on one claim about `messages`, the lines that the model was shown."""
    if not 1 <= candidate.line <= len(messages):
        return Refused("line")
    message = messages[candidate.line - 1]
    span = locate(candidate.quote, message.text)
    if span is None:
        other = next((m for m in messages if m is not message and locate(candidate.quote, m.text)), None)
        if other is None or other.role != message.role:
            return Refused("quote")
        # small models miscount lines; whose words they are is what matters
        message, span = other, locate(candidate.quote, other.text)
        assert span is not None  # noqa: S101  found just now
    if foreign(message.role, candidate.kind, candidate.text, setting.companion):
        return Refused("speaker")
    if any(start < span[1] and end > span[0] for start, end in others_words(message.text)):
        return Refused("others_words")
    if reason := _insincere(span, message.text):
        return Refused(reason)
    return _weigh(candidate, message, span, setting)


_RESOLVED = re.compile(r"\s*\((?:[^()]*\d{4})\)")
"""A date that was written out behind the words that mean it."""


def misattributed(kind: str, text: str, quote: str, message: Said, companion: str) -> bool:
    """Whether a remembered fact is about somebody of whom its message's speaker can't know."""
    if foreign(message.role, kind, text, companion):
        return True
    span = locate(quote, message.text)
    return span is not None and bool(_of_the_other(message, kind, text, span, companion))


def unsupported(text: str, quote: str, message: Said, setting: Setting) -> str:
    """Why a remembered fact is not borne out by its message (any more), or nothing."""
    span = locate(quote, message.text)
    if span is None:
        return "quote"
    if any(start < span[1] and end > span[0] for start, end in others_words(message.text)):
        return "others_words"
    dates = _dates_said(quote, message.said_at, setting.time_zone)
    return _unsupported(_RESOLVED.sub("", text), quote, dates, setting)


def _weigh(candidate: Candidate, message: Said, span: tuple[int, int], setting: Setting) -> Supported | Refused:
    text = words.as_stated(words.without_particles(" ".join(candidate.text.split())))
    if len(text) > TEXT_CHARS or len(text) < 4:
        return Refused("length")
    reason = ""
    # a model copies as little as it can: what is missing in the quote may stand in the rest of its sentence
    for start, end in dict.fromkeys((span, enclosing(span, message.text))):
        quote = message.text[start:end]
        if len(quote) > QUOTE_CHARS:
            break
        if len(words.tokens(quote)) < 2 and not any(words.is_unspaced(character) for character in quote):
            reason = "thin"
            continue
        if found := refusal(text) or refusal(quote):
            return Refused(found)
        if reason := _of_the_other(message, candidate.kind, text, (start, end), setting.companion):
            continue
        dates = _dates_said(quote, message.said_at, setting.time_zone)
        reason = _unsupported(text, quote, dates, setting)
        if not reason and words.contradicts(text, sentence_of(span, message.text)):
            # a quote may begin after the "not": what counts is the sentence
            reason = "polarity"
        if not reason:
            return _supported(candidate.kind, text, quote, message, setting)
    return Refused(reason or "length")


def _of_the_other(message: Said, kind: str, text: str, span: tuple[int, int], companion: str) -> str:
    before = message.text[enclosing(span, message.text)[0] : span[0]]
    return about_the_other(message.role, kind, text, before, message.text[span[0] : span[1]], companion)


def _supported(kind: str, text: str, quote: str, message: Said, setting: Setting) -> Supported:
    zone, said_at = setting.time_zone, message.said_at
    today = temporal.local_day(said_at, zone)
    past = [span.first for span in temporal.resolve(quote, said_at, zone) if span.last < today]
    since = deadlines.midnight(past[0], zone) if past and kind != "open_loop" else said_at
    dated = temporal.annotate(text, said_at, zone)
    due = None
    if kind == "open_loop" and (day := deadlines.ahead(quote, said_at, zone)):
        due = deadlines.midnight(day, zone)
        if dated == text and not re.search(r"\d{4}", text):
            dated = f"{text.rstrip('. ')} ({day.day} {day:%B %Y})."
    return Supported(
        kind, dated if len(dated) <= TEXT_CHARS + 60 else text, " ".join(quote.split()), message, since, due
    )
