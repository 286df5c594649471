"""Line charts as plain SVG: no plotting library, the same file for the same figures, readable in light and in dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 340, 70, 16, 40, 84
COLOURS = (
    "#2563eb",
    "#dc2626",
    "#059669",
    "#d97706",
    "#7c3aed",
    "#0891b2",
    "#be185d",
    "#65a30d",
    "#475569",
    "#a16207",
    "#0f766e",
)
INK = "#64748b"
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class Line:
    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Chart:
    """`goal` is drawn across; a logarithmic axis leaves out what isn't above zero."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: bool = False
    log_y: bool = False
    goal: float | None = None

    def svg(self) -> str:
        return _Drawing(self).text()


class _Axis:
    """From values to pixels, and which values to name."""

    def __init__(self, values: Sequence[float], begin: float, end: float, *, log: bool) -> None:
        self._log, self._begin, self._end = log, begin, end
        if log:
            values = [value for value in values if value > 0] or [1.0]
            low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
            self.low, self.high = float(low), float(max(high, low + 1))
            self.ticks = [10.0**power for power in range(low, int(self.high) + 1)]
            return
        low_value, high_value = min([0.0, *values]), max([*values, 1e-9])
        step = _step((high_value - low_value) / 5)
        self.low, self.high = math.floor(low_value / step) * step, math.ceil(high_value / step) * step
        self.ticks = [self.low + n * step for n in range(round((self.high - self.low) / step) + 1)]

    def place(self, value: float) -> float | None:
        if self._log:
            if value <= 0:
                return None
            value = math.log10(value)
        return self._begin + (value - self.low) / (self.high - self.low) * (self._end - self._begin)


class _Drawing:
    def __init__(self, chart: Chart) -> None:
        self._chart = chart
        points = [point for line in chart.lines for point in line.points]
        goal = [chart.goal] if chart.goal is not None else []
        self._x = _Axis([x for x, _ in points] or [0.0, 1.0], LEFT, WIDTH - RIGHT, log=chart.log_x)
        self._y = _Axis([*(y for _, y in points), *goal] or [0.0, 1.0], HEIGHT - BOTTOM, TOP, log=chart.log_y)

    def text(self) -> str:
        parts = [
            (
                f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" font-family="system-ui, sans-serif" '
                f'font-size="12" fill="{INK}">'
            ),
            f"<title>{escape(self._chart.title)}</title>",
            f'<text x="{LEFT}" y="20" font-size="14" font-weight="600">{escape(self._chart.title)}</text>',
            *self._grid(),
            *self._lines(),
            *self._legend(),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"

    def _grid(self) -> list[str]:
        parts = [part for tick in self._y.ticks for part in self._rung(tick)]
        foot = HEIGHT - BOTTOM + 16
        parts += [
            f'<text x="{self._x.place(tick):.1f}" y="{foot}" text-anchor="middle">{number(tick)}</text>'
            for tick in self._x.ticks
        ]
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(
            f'<text x="{middle}" y="{HEIGHT - BOTTOM + 34}" text-anchor="middle">{escape(self._chart.x)}</text>'
        )
        parts.append(
            f'<text transform="translate(16 {(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(self._chart.y)}</text>"
        )
        if self._chart.goal is not None:
            at = self._y.place(self._chart.goal)
            parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-dasharray="6 4"/>')
            parts.append(
                f'<text x="{WIDTH - RIGHT}" y="{(at or 0) - 4:.1f}" text-anchor="end">goal {number(self._chart.goal)}</text>'
            )
        return parts

    def _rung(self, tick: float) -> tuple[str, str]:
        at = self._y.place(tick) or 0.0
        return (
            f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="{INK}" stroke-opacity=".25"/>',
            f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{number(tick)}</text>',
        )

    def _lines(self) -> list[str]:
        parts = []
        for n, line in enumerate(self._chart.lines):
            colour = COLOURS[n % len(COLOURS)]
            placed = [(self._x.place(x), self._y.place(y)) for x, y in line.points]
            shown = [(x, y) for x, y in placed if x is not None and y is not None]
            if not shown:
                continue
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in shown)
            parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>')
            if len(shown) <= 20:
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in shown]
        return parts

    def _legend(self) -> list[str]:
        parts, x, y = [], float(LEFT), HEIGHT - 30
        for n, line in enumerate(self._chart.lines):
            wide = 26 + 7.0 * len(line.name)
            if x + wide > WIDTH - RIGHT:
                x, y = float(LEFT), y + 16
            parts.append(f'<path d="M{x:.0f} {y - 4}h14" stroke="{COLOURS[n % len(COLOURS)]}" stroke-width="3"/>')
            parts.append(f'<text x="{x + 18:.0f}" y="{y}">{escape(line.name)}</text>')
            x += wide
        return parts


def _step(least: float) -> float:
    power = 10.0 ** math.floor(math.log10(least)) if least > 0 else 1.0
    return next(power * step for step in STEPS if power * step >= least * 0.999)


def number(value: float) -> str:
    """Short, and whole where it is whole: 1,000,000 is 1M."""
    for least, unit, letter in ((1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if abs(value) >= least:
            return f"{value / unit:.4g}{letter}"
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
