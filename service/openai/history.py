"""Find the conversation that a stateless client means: by name, else by the history that it sends along.

A client of Chat Completions resends everything each time. The chain is a hash over what came before the new message;
the conversation keeps the chain of what it would be sent next, so that a history is recognised with one look-up, and
nothing of it is stored twice.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from service.openai.schemas import ChatMessageIn


@dataclass(frozen=True, slots=True)
class Said:
    role: str
    text: str


def spoken(messages: Sequence[ChatMessageIn]) -> list[Said]:
    """The messages of the two sides; instructions and tool traffic are not part of the conversation."""
    return [Said(message.role, message.text) for message in messages if message.role in {"user", "assistant"} and message.text]


def instructions(messages: Sequence[ChatMessageIn]) -> str:
    return "\n\n".join(message.text for message in messages if message.role in {"system", "developer"} and message.text)


def chain(history: Sequence[Said]) -> bytes:
    """Digest of a history. Clients trim white space at its ends and normalise line ends, so these don't count."""
    digest = hashlib.sha256(b"rapport-history-1")
    for said in history:
        text = said.text.strip().replace("\r\n", "\n").encode("utf-8", "surrogatepass")
        digest.update(f"{said.role}:{len(text)}:".encode())
        digest.update(text)
    return digest.digest()
