"""Where a model server is in the reply that it writes for us, when it can be asked for the rest of it."""

from collections import deque
from typing import Any

from service.llm.ports import Position, Resume


class Upstream:
    """Which characters of the reply the server's numbered events stand for.

    `after` events bring `chars` characters of the reply; the response's own text begins at character `begins`. What is
    stored is never ahead of what was shown: whoever takes over reads on from there, and leaves out what readers have.
    """

    def __init__(self, stored: dict[str, Any] | None = None) -> None:
        """`stored` as `record` gave it to a writer before."""
        self.backend: str = (stored or {}).get("backend", "")
        self.response_id: str = (stored or {}).get("id", "")
        self._begins: int = (stored or {}).get("begins", 0)
        self._marks: deque[tuple[int, int]] = deque()
        if stored and stored.get("after") is not None:
            self._marks.append((stored["after"], stored["chars"]))

    def begin(self, backend: str, response_id: str, chars: int) -> None:
        """The server has a name for the reply, whose text so far has `chars` characters."""
        if (backend, response_id) != (self.backend, self.response_id):
            self.backend, self.response_id, self._begins = backend, response_id, chars
            self._marks.clear()

    def moved(self, position: Position, chars: int) -> None:
        """What was read up to this position ends at character `chars`."""
        if position.response_id == self.response_id:
            self._marks.append((position.after, chars))

    def forget(self) -> None:
        """It can't be read on in."""
        self.backend = self.response_id = ""
        self._marks.clear()

    def record(self, shown: int) -> dict[str, Any] | None:
        """What to store while readers have `shown` characters."""
        if not self.response_id:
            return None
        while len(self._marks) > 1 and self._marks[1][1] <= shown:
            self._marks.popleft()
        after, chars = self._marks[0] if self._marks and self._marks[0][1] <= shown else (None, self._begins)
        return {"backend": self.backend, "id": self.response_id, "begins": self._begins, "after": after, "chars": chars}

    def resume(self, text: str) -> Resume | None:
        """How to read on behind `text`; None when that can't be done."""
        record = self.record(len(text))
        if record is None or len(text) < self._begins:
            return None
        return Resume(self.response_id, record["after"], text[record["chars"] :])
