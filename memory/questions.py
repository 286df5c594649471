"""What a question shows of what it asks for: by rule, in microseconds, in English."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from memory.associations import Floats, Numbers

ASKS_WHEN = re.compile(r"\bwhen\b|what (date|day|month|year)|how long ago", re.IGNORECASE)
ASKS_AMOUNT = re.compile(r"how (many|much|long|often|old)", re.IGNORECASE)
ASKS_NAME = re.compile(
    r"\b(who|which|where|whose|name|named|called|titles?|what (is|are|was|were) the|what (books?|movies?|films?|games?"
    r"|songs?|bands?|cit(y|ies)|countr(y|ies)|places?|states?|team|brand|company|series|show|artist|author|restaurant"
    r"|kind|types?|breed))",
    re.IGNORECASE,
)
ASKS_HELP = re.compile(
    r"\b(can|could|would|will|should) (you|i)\b|how (do|should|can|would) i|suggest|recommend|help"
    r"|i['’]m (trying|planning|looking|working|about|thinking)",
    re.IGNORECASE,
)
ASKS_SUMMARY = re.compile(r"\b(summar(y|i[sz]e)|overview|recap)\b", re.IGNORECASE)
ASKS_COURSE = re.compile(
    r"\border (in which|that|of (events|things))|\bin (what|which) order"
    r"|\b(throughout|across|over) (our|all|the) (conversations?|chats?|talks|discussions|sessions|months)\b|\bover time\b",
    re.IGNORECASE,
)
FIRST_PERSON = re.compile(r"\b(i|my|me|mine|i['’]m|i['’]ve|i['’]d)\b", re.IGNORECASE)
SECOND_PERSON = re.compile(r"\b(you|your|yours)\b", re.IGNORECASE)
YOU_SAID = re.compile(
    r"\b(did|have|had|do|could|were) you (\w+ly )?(just |also |ever )?(recommend|suggest|say|said|tell|told|mention"
    r"|explain|advis|propos|describe|give|gave|provide|outline|walk|list|promise|help|write|offer|share|teach|show)"
    r"|\byou (recommended|suggested|said|told|mentioned|explained|advised|proposed|described|gave|provided|outlined"
    r"|listed|offered|shared|helped|showed)"
    r"|\byour (advice|suggestions?|recommendations?|explanations?|answers?|tips)\b",
    re.IGNORECASE,
)
"""Though it says "my" as well: "what did you recommend for my resume"."""


@dataclass(frozen=True, slots=True)
class Question:
    """What a question shows of what it asks for."""

    about_role: str | None
    """Whose messages it is about, by pronoun; None when it names people or nobody."""
    about_speaker: str | None
    """The one speaker whom it names."""
    about_nobody: bool
    """It says neither "I" nor "you", and names no speaker."""
    asks_when: bool
    asks_amount: bool
    asks_name: bool
    asks_help: bool
    asks_summary: bool
    """Of what was said about something: what both sides made of it."""
    asks_overview: bool
    """A summary, or how something went on from talk to talk."""
    days: Sequence[tuple[date, date]]
    """The ranges of days that it names."""
    words: Numbers
    """Numbers of its words in the table of associations, the speakers' names left out."""
    word_weights: Floats
    """How telling each of them is: its IDF in this user's memories."""


def _role(text: str) -> str | None:
    if FIRST_PERSON.search(text) and not YOU_SAID.search(text):
        return "user"
    return "assistant" if SECOND_PERSON.search(text) else None


def read_question(
    text: str, names: Sequence[str], days: Sequence[tuple[date, date]], words: Numbers, word_weights: Floats
) -> Question:
    named = sorted({name.lower() for name in names if re.search(rf"\b{re.escape(name)}\b", text, re.IGNORECASE)})
    role = None if named else _role(text)
    summary = bool(ASKS_SUMMARY.search(text))
    return Question(
        about_role=role,
        about_speaker=named[0] if len(named) == 1 else None,
        about_nobody=not named and role is None,
        asks_when=bool(ASKS_WHEN.search(text)),
        asks_amount=bool(ASKS_AMOUNT.search(text)),
        asks_name=bool(ASKS_NAME.search(text)),
        asks_help=bool(ASKS_HELP.search(text)),
        asks_summary=summary,
        asks_overview=summary or bool(ASKS_COURSE.search(text)),
        days=days,
        words=words,
        word_weights=word_weights,
    )
