"""Chooses the tier for a reply by what the message asks for: small talk does not need the large model."""

import re
from collections import Counter
from dataclasses import dataclass

from service.llm import metrics
from service.llm.config import Tier

SHORT = 80
"""Characters up to which a message without a question can be small talk."""
LONG = 600

_HEAVY = re.compile(
    r"\b(why|how (do|does|can|could|should|would)|explain|compare|advice|decide|plan|remember|promised?"
    r"|what did (i|you|we)|write|story|poem|translate|calculate)\b|```|\d+\s*[-+*/]\s*\d+",
    re.IGNORECASE,
)
_TENDER = re.compile(
    r"\b(die|died|dying|dead|death|kill|suicid\w*|hurt|harm|grief|funeral|cancer|hospital|abuse\w*|rape\w*|panic"
    r"|depress\w*|anxi\w*|hopeless|lonely|alone|divorce\w*|broke up|miscarriage|cry|crying|scared|afraid)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Choice:
    tier: Tier
    reason: str


class Router:
    """Chooses, and counts its choices."""

    def __init__(self) -> None:
        self.choices: Counter[Choice] = Counter()

    def choose(self, message: str) -> Choice:
        """Return the tier for a reply to `message`; in doubt the large one."""
        choice = choose(message)
        self.choices[choice] += 1
        metrics.ROUTED.labels(choice.tier, choice.reason).inc()
        return choice


def choose(message: str) -> Choice:
    if _TENDER.search(message):
        return Choice("large", "tender")
    if len(message) > LONG:
        return Choice("large", "long")
    if _HEAVY.search(message):
        return Choice("large", "demanding")
    if not message.isascii():
        return Choice("large", "language")  # the words above are English
    if len(message) <= SHORT and "?" not in message:
        return Choice("small", "small_talk")
    return Choice("large", "default")
