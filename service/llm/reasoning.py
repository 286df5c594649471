"""Keeps a model's thinking apart from its reply when the server leaves both in the content."""

_PAIRS = {"<think>": "</think>", "<thinking>": "</thinking>", "<reasoning>": "</reasoning>", "[THINK]": "[/THINK]"}
_LONE = "</think>"
_ANY = (*_PAIRS, _LONE)
_LONGEST = max(len(tag) for pair in _PAIRS.items() for tag in pair)


class ThoughtSplitter:
    """Splits text into (reply, reasoning) at <think> tags, wherever the reads cut them.

    `thinking` says that the chat template has opened the tag already, so that only its end is ever sent. Where that was
    not known, `unopened` tells it afterwards, for the next reply.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self._close = "</think>" if thinking else ""
        self._held = ""
        self.unopened = False
        self._trim = False
        """The blank lines after a closing tag belong to neither."""

    def feed(self, text: str) -> tuple[str, str]:
        if not self._held and not self._close and not self._trim and "<" not in text and "[" not in text:
            return text, ""
        reply: list[str] = []
        reasoning: list[str] = []
        rest = self._held + text
        self._held = ""
        while rest:
            rest = self._step(rest, reply, reasoning)
        return "".join(reply), "".join(reasoning)

    def close(self) -> tuple[str, str]:
        """Return what was held because it might have become a tag."""
        held, self._held = self._held, ""
        return ("", held) if self._close else (self._said(held), "")

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
            self.unopened = True
            self._trim = True
            return rest[end + len(tag) :]
        self._trim = bool(self._close)
        self._close = "" if self._close else _PAIRS[tag]
        return rest[end + len(tag) :]

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
