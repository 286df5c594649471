"""What still says what is being forgotten, a fact or a message, in other words: other facts, other messages, and summaries.

Nothing here is forgotten by itself, since what is alike in meaning is not always the same: the receipt names it, and its
owner decides. Summaries that may hold it are dropped and written anew from what is left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import UUID

from memory import words
from memory.attribution import FIRST
from memory.postgres import Connection
from memory.quotes import MARKS, sentences

NEAR_BY, ALIKE = 0.55, 0.62
"""Cosines. From the second one on a text that names the same may say the same; from the first on if half of the words agree
as well. Found so, of 18 + 4 paraphrases 16 + 4, of 18 + 8 statements that are near and not the same 4 + 0 (docs/memory.md);
the 18 chose the numbers, the others are tests/memory/test_echoes.py."""
SHARED = 0.5
TOLD = 0.5
"""Share of a forgotten fact's content words from which a sentence of a summary counts as telling it."""
LEAST_SAID = 2
"""Content words from which on a sentence of a message says something that may be said elsewhere; of oneself it is one."""
_GREETINGS = words.content(
    "hello hi hey good morning afternoon evening night day thanks thank welcome bye see again nice guten morgen tag abend nacht "
    "hallo danke tschüss buenos días buenas tardes noches hola gracias adiós bonjour bonsoir salut merci bonne nuit"
)
MOST = 50


@dataclass(frozen=True, slots=True)
class Echo:
    """A memory that may say what was forgotten."""

    id: UUID
    layer: str
    likeness: float
    sure: bool
    """Alike in meaning and in words: sure enough to be forgotten unseen, when that is wished."""


# vectors of two models may stand beside each other; `greatest` takes no notice of those that are missing
NEAR = f"""
WITH gone AS (
    SELECT embedding, embedding_b FROM facts WHERE user_id = $1 AND id = ANY ($2::uuid[])
    UNION ALL
    SELECT embedding, embedding_b FROM episodes WHERE $4 AND user_id = $1 AND message_id = ANY ($3::uuid[])
)
SELECT f.id, 'fact' AS layer, f.text,
    max(greatest(1 - (f.embedding <=> gone.embedding), 1 - (f.embedding_b <=> gone.embedding_b))) AS likeness
FROM facts f, gone WHERE f.user_id = $1 AND NOT f.id = ANY ($2::uuid[]) AND f.status IN ('active', 'uncertain')
GROUP BY f.id, f.text
HAVING max(greatest(1 - (f.embedding <=> gone.embedding), 1 - (f.embedding_b <=> gone.embedding_b))) >= {NEAR_BY}
UNION ALL
SELECT e.message_id, 'episode', e.text,
    max(greatest(1 - (e.embedding <=> gone.embedding), 1 - (e.embedding_b <=> gone.embedding_b)))
FROM episodes e, gone WHERE e.user_id = $1 AND NOT e.message_id = ANY ($3::uuid[])
GROUP BY e.message_id, e.text
HAVING max(greatest(1 - (e.embedding <=> gone.embedding), 1 - (e.embedding_b <=> gone.embedding_b))) >= {NEAR_BY}
ORDER BY likeness DESC LIMIT {4 * MOST}
"""


async def find(
    connection: Connection, user_id: UUID, facts: Sequence[UUID], messages: Sequence[UUID], *, whole: str = ""
) -> list[Echo]:
    """Facts and messages that may say what `facts` say, likeliest first, beside the `messages` they rest on.

    With `whole`, what the one of `messages` said, also those that may say that.
    """
    said = statements(whole)
    texts = said + [
        row["text"]
        for row in await connection.fetch(
            "SELECT text FROM facts WHERE user_id = $1 AND id = ANY ($2::uuid[])", user_id, list(facts)
        )
    ]
    rows = await connection.fetch(NEAR, user_id, list(facts), list(messages), bool(said))
    found = [_judged(row["id"], row["layer"], float(row["likeness"]), row["text"], texts) for row in rows]
    return [echo for echo in found if echo is not None][:MOST]


def statements(message: str) -> list[str]:
    """The sentences of a message that say something: a greeting is no echo of another."""
    parts = [message[start:end].strip() for start, end in sentences(message)]
    return [
        part
        for part in parts
        if len(words.content(part) - _GREETINGS) >= (1 if FIRST.search(part.translate(MARKS)) else LEAST_SAID)
    ]


def _judged(memory_id: UUID, layer: str, likeness: float, text: str, facts: Sequence[str]) -> Echo | None:
    same = [fact for fact in facts if _names_the_same(fact, text)]
    said = words.content(text)
    wordy = any(words.shared(words.content(fact), said) >= SHARED * len(words.content(fact)) for fact in same)
    if not same or not (wordy or likeness >= ALIKE):
        return None
    return Echo(memory_id, layer, round(likeness, 2), sure=wordy and likeness >= ALIKE)


def _names_the_same(fact: str, text: str) -> bool:
    spoken = set(words.tokens(text))
    named = all(name in spoken or any(words.same_name(name, word) for word in spoken) for name in words.names(fact))
    return named and words.numbers(fact) <= words.numbers(text) and words.is_denial(fact) <= words.is_denial(text)


async def drop_summaries(connection: Connection, user_id: UUID, told: Iterable[str]) -> set[UUID]:
    """Drop the summaries of any conversation that tell one of these; gives the conversations."""
    facts = [text for text in told if words.content(text)]
    rows = await connection.fetch(
        "SELECT id, summary FROM conversations WHERE user_id = $1 AND summary <> '' AND deleted_at IS NULL", user_id
    )
    telling = [row["id"] for row in rows if any(_tells(row["summary"], fact) for fact in facts)]
    # the version fails a summary that is being written from the one before
    await connection.execute(
        """UPDATE conversations SET summary = '', summary_seq = 0, version = version + 1
        WHERE user_id = $1 AND id = ANY ($2::uuid[])""",
        user_id,
        telling,
    )
    return set(telling)


def _tells(summary: str, fact: str) -> bool:
    content = words.content(fact)
    said = words.content(summary)
    return words.shared(content, said) >= max(1.0, TOLD * len(content)) and _names_the_same(fact, summary)
