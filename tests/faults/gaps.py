"""What was away while a reader waited: a take-over of its own takes about a lease, one without its database takes longer."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic

ALONE = "alone"
"""Nothing was away but the writer."""
STORE = "store"
"""PostgreSQL, Redis or the way to them was away, slow or full at some moment of the gap."""
STOPPED = "stopped"
"""The instance that the reader read from may itself have been stopped, or the way to it or the model server was."""
BEFORE = 0.3
"""Seconds that what was cut or killed takes to be noticed and begun anew."""
CLASSES = (
    (STORE, ("valkey", "postgres", "postmaster", "redis", "disk", "queue", "sleepwalker")),
    (STOPPED, ("stop api", "stop runner", "client", "upstream hang")),
)


@dataclass
class Absence:
    fault: str
    began: float
    ended: float = float("inf")

    @property
    def of(self) -> str:
        return next((name for name, words in CLASSES if any(word in self.fault for word in words)), ALONE)


class Absences:
    """When what was away, for all of a round."""

    def __init__(self) -> None:
        self._known: list[Absence] = []

    @contextmanager
    def noted(self, fault: str) -> Iterator[None]:
        absence = Absence(fault, monotonic())
        self._known.append(absence)
        try:
            yield
        finally:
            absence.ended = monotonic() + BEFORE

    def during(self, began: float, ended: float) -> str:
        """What a gap between these moments is to be laid to."""
        found = {absence.of for absence in self._known if absence.began < ended and absence.ended > began}
        return next((name for name, _ in CLASSES if name in found), ALONE)

    def names(self, began: float, ended: float) -> list[str]:
        return [absence.fault for absence in self._known if absence.began < ended and absence.ended > began]


def quantile(values: Sequence[float], share: float) -> float:
    """Nearest rank; NaN of nothing."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
