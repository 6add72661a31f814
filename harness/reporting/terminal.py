"""The summary on a terminal: what the numbers are about, then the numbers, in one screen.

Plain text without colour where the output is no terminal; never more than about 60 lines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from harness.reporting import neutral, words

MIN_WIDTH, MAX_WIDTH = 60, 110

CASES_SHOWN, CRITERIA_SHOWN, NOTES_SHOWN = 12, 8, 3


def render(
    summary: Mapping[str, Any],
    file: IO[str],
    width: int | None = None,
    *,
    report: Path | None = None,
) -> None:
    """Writes the summary to `file`. `width` in columns; by default that of the terminal.

    `report` is where report.html lies. Nothing that the summary carries is read as markup.
    """
    console = Console(file=file, width=width, highlight=False, markup=False, emoji=False)
    console.width = max(MIN_WIDTH, min(console.width, MAX_WIDTH))
    screen = _Screen(console)
    screen.paragraphs(words.about(summary))
    screen.blank()
    screen.headline(summary)
    for comparison in summary["lifts"]:
        if comparison["primary"]["value"] is not None:
            screen.cases(comparison)
            screen.criteria(comparison, summary)
            break
    screen.notes(summary)
    if report is not None:
        screen.blank()
        screen.put(Text.assemble(("Report  ", "bold"), neutral.line(str(report))), wrap=False)


class _Screen:
    """A console that speaks the encoding of its file."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.ascii = not console.encoding.lower().startswith("utf")

    def put(self, text: Text | str, style: str = "", indent: int = 0, *, wrap: bool = True) -> None:
        """Prints a line; without `wrap` it stays whole, as a path to click or copy must."""
        line = Text(neutral.line(text), style=style) if isinstance(text, str) else text
        if self.ascii:
            line = Text(words.ascii_only(line.plain), style=style)
        shown = Padding(line, (0, 0, 0, indent), expand=False) if indent else line
        self.console.print(shown, soft_wrap=not wrap)

    def blank(self) -> None:
        self.console.print()

    def paragraphs(self, lines: Iterator[words.Line]) -> None:
        styles = {"title": "bold", "warning": "bold yellow", "plain": "", "detail": "dim"}
        for line in lines:
            self.put(line.text, styles[line.kind])

    def headline(self, summary: Mapping[str, Any]) -> None:
        table = self._grid()
        first = summary["lifts"][0]
        known = first["primary"]["value"] is not None
        rates = {first["reference"]: "reference", first["treatment"]: "treatment"}
        for name, arm in summary["arms"].items():
            own = arm["primary"]
            rate = first["primary"][rates[name]] if known and name in rates else own["rate"]
            passed = f"{own['passed']} of {own['graded']} criteria passed"
            self._row(table, name, words.percent(rate), f"{self._bar(rate)}  {passed}".strip())
        for entry in summary["lifts"]:
            primary = entry["primary"]
            several = len(summary["lifts"]) > 1
            name = f"{entry['treatment']} − {entry['reference']}" if several else "lift"
            if primary["value"] is None:
                self._row(table, name, "none", primary["reason"], style="bold")
                continue
            self._row(table, name, words.points(primary["value"]), "points", style="bold")
            for label, key in words.QUESTIONS:
                self._row(table, "", "", f"95% {label} {words.interval(primary[key])}")
        if known:
            for label, value, note in words.beside(summary, first):
                self._row(table, label, value, note, style="dim", styled=0)
        self.console.print(table)

    def _bar(self, rate: float | None, cells: int = 20) -> str:
        if rate is None:
            return ""
        full, empty = ("#", ".") if self.ascii else ("█", "░")
        done = round(rate * cells)
        return full * done + empty * (cells - done)

    def cases(self, comparison: Mapping[str, Any]) -> None:
        table = self._table("Case", comparison["reference"], comparison["treatment"], "Lift")
        table.add_column("95% on this case", justify="right")
        shown = comparison["cases"][:CASES_SHOWN]
        for entry in shown:
            self._row(
                table,
                entry["case"],
                words.percent(entry["reference"]),
                words.percent(entry["treatment"]),
                words.points(entry["value"]),
                words.span(entry["low"], entry["high"]),
            )
        self.blank()
        self.console.print(table)
        self._more(len(comparison["cases"]) - len(shown), "case")

    def criteria(self, comparison: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        moved = [entry for entry in comparison["criteria"] if entry["change"]]
        how = {entry["criterion"]: entry["how"] for entry in summary["criteria"]}
        self.blank()
        if not moved:
            self.put("No criterion moved.", "dim")
            return
        table = self._table("Criterion", comparison["reference"], comparison["treatment"], "Moved")
        table.add_column("How")
        for entry in moved[:CRITERIA_SHOWN]:
            self._row(
                table,
                entry["criterion"],
                f"{entry['reference']}/{entry['pairs']}",
                f"{entry['treatment']}/{entry['pairs']}",
                words.points(entry["change"]),
                how.get(entry["criterion"], ""),
                style="green" if entry["change"] > 0 else "red",
                styled=3,
            )
        self.console.print(table)
        self._more(len(moved) - CRITERIA_SHOWN, "criterion", "criteria")

    def notes(self, summary: Mapping[str, Any]) -> None:
        notes = list(words.notes(summary))
        if not notes:
            return
        self.blank()
        for title, lines in notes:
            for position, line in enumerate(lines[:NOTES_SHOWN]):
                lead = f"{title:<11}" if position == 0 else " " * 11
                self._hanging(lead, neutral.line(line))
            self._more(len(lines) - NOTES_SHOWN, "line", indent=11)

    def _hanging(self, lead: str, line: str) -> None:
        grid = Table.grid(padding=(0, 0))
        grid.add_column(width=11)
        grid.add_column(max_width=self.console.width - 11)
        self._row(grid, lead, _clip(line, 2 * (self.console.width - 12)), style="dim", styled=0)
        self.console.print(grid)

    def _grid(self) -> Table:
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True)
        table.add_column(justify="right", no_wrap=True)
        table.add_column(overflow="fold")
        return table

    def _table(self, first: str, *others: str) -> Table:
        table = Table(
            box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False, show_edge=False, header_style="dim"
        )
        if self.ascii:
            table.box = box.ASCII2
        table.add_column(first, overflow="fold")
        for name in others:
            table.add_column(Text(_clip(neutral.line(name), 24)), justify="right")
        return table

    def _row(self, table: Table, *cells: str, style: str = "", styled: int | None = None) -> None:
        texts = []
        for position, cell in enumerate(cells):
            plain = neutral.line(cell)
            applies = style if styled is None or styled == position else ""
            texts.append(Text(words.ascii_only(plain) if self.ascii else plain, style=applies))
        table.add_row(*texts)

    def _more(self, count: int, one: str, many: str = "", indent: int = 0) -> None:
        if count > 0:
            noun = one if count == 1 else many or f"{one}s"
            self.put(f"… and {count} more {noun} in the report", "dim", indent)


def _clip(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: max(0, length - 1)]}…"
