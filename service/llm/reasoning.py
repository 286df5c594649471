"""Keeps a model's thinking apart from its reply when the server leaves both in the content."""

import re

_PAIRS = {"<think>": "</think>", "<thinking>": "</thinking>", "<reasoning>": "</reasoning>", "[THINK]": "[/THINK]"}
_LONE = "</think>"
_ANY = (*_PAIRS, _LONE)
_LONGEST = max(len(tag) for pair in _PAIRS.items() for tag in pair)


# Models whose chat templates are known to open <think> in the prompt: what a server without a parser for it sends of
# the thought is its end only
_MAY_OPEN = re.compile(
    r"(^|[-_/.: ])r1($|[-_/.: ])|deepseek-r|qwq|think|reason|magistral|glm-z1|glm-4\.[5-9]|minimax-m|nemotron|marco-o1"
    r"|seed-oss|exaone-deep|smollm3|deephermes|cogito",
    re.IGNORECASE,
)


def may_open_thinking(model: str) -> bool:
    """Tell whether a reply of this model may begin inside a thought, as far as its name says."""
    return _MAY_OPEN.search(model) is not None


class ThoughtSplitter:
    """Splits text into (reply, reasoning) at <think> tags, wherever the reads cut them.

    `thinking` says that the chat template has opened the tag already, so that only its end is ever sent; None that it
    may have: then nothing is let out until that is known. Where it was not expected, `took_back` tells that all text
    until now was thought, and `unopened` tells it for the next reply. A `begun` reply is past its thoughts.
    """

    def __init__(self, *, thinking: bool | None = False, begun: bool = False) -> None:
        self._close = _LONE if thinking else ""
        self._assumed: list[str] | None = [] if thinking else None
        self._undecided: list[str] | None = [] if thinking is None else None
        self._held = ""
        self._paired = begun
        """A thought was opened, or none can come any more: a lone closing tag is a slip of the model's."""
        self.unopened = False
        self.closed = False
        """A thought has ended."""
        self.took_back = False
        self._trim = False
        """The blank lines after a closing tag belong to neither."""

    def feed(self, text: str) -> tuple[str, str]:
        plain = not self._held and not self._close and not self._trim and "<" not in text and "[" not in text
        if plain and self._undecided is None:
            return text, ""
        reply: list[str] = []
        reasoning: list[str] = []
        rest = self._held + text
        self._held = ""
        while rest:
            rest = self._step(rest, reply, reasoning)
        if self._assumed is not None and not self.closed:
            self._assumed.extend(reasoning)
        if self._undecided is not None:
            self._undecided.extend(reply)
            return (self.settle() if self._paired else ""), "".join(reasoning)
        return "".join(reply), "".join(reasoning)

    def settle(self) -> str:
        """Return what was kept until its nature was known: it is the reply's."""
        kept, self._undecided = self._undecided or [], None
        return "".join(kept)

    def close(self, *, finished: bool = False) -> tuple[str, str]:
        """Return what was held because it might have become a tag, or a thought; of a `finished` reply whose thought
        never ended, all of it: it was none."""
        held, self._held = self._held, ""
        if self._close and self._assumed and not self.closed and finished:
            return "".join(self._assumed) + held, ""
        return ("", held) if self._close else (self.settle() + self._said(held), "")

    def _step(self, rest: str, reply: list[str], reasoning: list[str]) -> str:
        """Take `rest` up to its next tag, or all of it; return what is left."""
        wanted = (self._close,) if self._close else _ANY
        found = min(((at, tag) for tag in wanted if (at := rest.find(tag)) >= 0), default=None)
        end = found[0] if found else len(rest) - _unfinished(rest, wanted)
        if self._close:
            reasoning.append(rest[:end])
        else:
            reply.append(self._said(rest[:end]))
        if found is None:
            self._held = rest[end:]
            return ""
        tag = found[1]
        if tag == _LONE and not self._close:
            if not self._paired:
                self._take_back(reply, reasoning)
            self._trim = True
            return rest[end + len(tag) :]
        self._paired = True
        self.closed = self.closed or bool(self._close)
        self._trim = bool(self._close)
        self._close = "" if self._close else _PAIRS[tag]
        return rest[end + len(tag) :]

    def _take_back(self, reply: list[str], reasoning: list[str]) -> None:
        """The thought that ends here was never opened: all of the reply until now was it."""
        self.unopened = self.closed = self._paired = True
        if self._undecided is not None:
            reasoning.extend(self._undecided)
            self._undecided = None
        else:
            self.took_back = True
        reasoning.extend(reply)
        reply.clear()

    def _said(self, text: str) -> str:
        if self._trim:
            text = text.lstrip("\n ")
            self._trim = not text
        return text


def _unfinished(text: str, tags: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a tag."""
    for size in range(min(_LONGEST, len(text)), 0, -1):
        if any(tag.startswith(text[-size:]) and size < len(tag) for tag in tags):
            return size
    return 0
