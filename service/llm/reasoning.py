"""Keeps a model's thinking apart from its reply when the server leaves both in the content."""

_PAIRS = {"<think>": "</think>", "<thinking>": "</thinking>", "<reasoning>": "</reasoning>", "[THINK]": "[/THINK]"}
_LONGEST = max(len(tag) for pair in _PAIRS.items() for tag in pair)


class ThoughtSplitter:
    """Splits text into (reply, reasoning) at <think> tags, wherever the reads cut them.

    `thinking` says that the chat template has opened the tag already, so that only its end is ever sent.
    """

    def __init__(self, *, thinking: bool = False) -> None:
        self._close = "</think>" if thinking else ""
        self._held = ""
        self._trim = thinking

    def feed(self, text: str) -> tuple[str, str]:
        if not self._held and not self._close and not self._trim and "<" not in text and "[" not in text:
            return text, ""
        reply: list[str] = []
        reasoning: list[str] = []
        rest = self._held + text
        self._held = ""
        while rest:
            rest = self._step(rest, reply, reasoning)
        said = "".join(reply)
        if self._trim and not self._close and said:
            said = said.lstrip("\n ")
            self._trim = not said
        return said, "".join(reasoning)

    def close(self) -> tuple[str, str]:
        """Return what was held because it might have become a tag."""
        held, self._held = self._held, ""
        return ("", held) if self._close else (held, "")

    def _step(self, rest: str, reply: list[str], reasoning: list[str]) -> str:
        wanted = (self._close,) if self._close else tuple(_PAIRS)
        target = reasoning if self._close else reply
        found = min(((at, tag) for tag in wanted if (at := rest.find(tag)) >= 0), default=None)
        if found is None:
            keep = _unfinished(rest, wanted)
            target.append(rest[: len(rest) - keep])
            self._held = rest[len(rest) - keep :]
            return ""
        at, tag = found
        target.append(rest[:at])
        self._close = "" if self._close else _PAIRS[tag]
        self._trim = True
        return rest[at + len(tag) :]


def _unfinished(text: str, tags: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a tag."""
    for size in range(min(_LONGEST, len(text)), 0, -1):
        if any(tag.startswith(text[-size:]) and size < len(tag) for tag in tags):
            return size
    return 0
