"""Reports as Markdown and as one HTML file that needs nothing else: tables, sentences, charts."""

import html
import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from loadtests.charts import Chart

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:62rem;margin:2rem auto;padding:0 1rem;color-scheme:light dark}
table{border-collapse:collapse;font-size:13px;margin:1rem 0}td,th{border:1px solid #8886;padding:.25rem .5rem;text-align:right}
td:first-child,th:first-child{text-align:left}svg{max-width:100%;height:auto}code{font-size:13px}"""
REPORTS = Path(__file__).parents[1] / ".rapport" / "load"


@dataclass(frozen=True, slots=True)
class Table:
    head: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [self.head, ["---"] * len(self.head), *self.rows]
        return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.head)
        rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in self.rows)
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


@dataclass(slots=True)
class Report:
    """Sections of any of the three, written in the order in which they were added."""

    title: str
    here: bool = True
    """Whether all that was measured ran on this machine."""
    parts: list[tuple[str, str | Table | Chart]] = field(default_factory=list)
    """(kind, content); a chart's kind is the name of its file."""

    def say(self, text: str) -> None:
        self.parts.append(("text", text))

    def head(self, text: str) -> None:
        self.parts.append(("head", text))

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self.parts.append(("table", Table(head, rows)))

    def chart(self, name: str, chart: Chart) -> None:
        self.parts.append((name, chart))

    def write(self, folder: Path, data: Any) -> Path:
        """Write report.md, report.html, figures.json and the charts; gives the Markdown's path."""
        folder.mkdir(parents=True, exist_ok=True)
        place = where(here=self.here)
        markdown, page = [f"# {self.title}", place], [f"<h1>{html.escape(self.title)}</h1><p>{html.escape(place)}</p>"]
        for kind, content in self.parts:
            match content:
                case Chart():
                    svg = content.svg()
                    (folder / f"{kind}.svg").write_text(svg, encoding="utf-8")
                    markdown.append(f"![{content.title}]({kind}.svg)")
                    page.append(svg)
                case Table():
                    markdown.append(content.markdown())
                    page.append(content.html())
                case _:
                    markdown.append(f"## {content}" if kind == "head" else content)
                    tag = "h2" if kind == "head" else "p"
                    page.append(f"<{tag}>{html.escape(content)}</{tag}>")
        path = folder / "report.md"
        path.write_text("\n\n".join(markdown) + "\n", encoding="utf-8")
        whole = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(self.title)}</title><style>{STYLE}</style>'
        (folder / "report.html").write_text(whole + "\n".join(page) + "</html>\n", encoding="utf-8")
        (folder / "figures.json").write_text(json.dumps(data, indent=1, default=str) + "\n", encoding="utf-8")
        return path


def where(*, here: bool = True) -> str:
    """The machine, and how busy it was otherwise: no figure means anything without."""
    memory = psutil.virtual_memory().total / 2**30
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, {os.cpu_count()} cores, {memory:.0f} GiB, Python {platform.python_version()}; "
        f"load average {load} (1, 5, 15 minutes). "
        + (
            "Everything runs on this one machine: users, proxy, instances, databases, model."
            if here
            else "Only the users run here."
        )
    )


def new_folder(kind: str) -> Path:
    return REPORTS / f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}"


def ms(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
