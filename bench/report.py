"""The figures of a bench with their targets, as a table on the screen and as a JSON file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from bench.machine import machine

RESULTS = Path(__file__).parent / "results"
Sense = Literal["at most", "at least", "under", "over"]


@dataclass(frozen=True)
class Figure:
    """One figure.

    Args:
        what: what was measured, in a few words.
        value: None if it could not be measured; ``note`` says why.
        unit: printed after the value; empty for a ratio.
        target: what the value must reach; None: it is for information.
        sense: on which side of the target the value must be.
        note: how it was measured, where that is needed to understand it.
    """

    what: str
    value: float | None
    unit: str = ""
    target: float | None = None
    sense: Sense = "at most"
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target was reached; None without a target or a value."""
        if self.value is None or self.target is None:
            return None
        return {
            "at most": self.value <= self.target,
            "at least": self.value >= self.target,
            "under": self.value < self.target,
            "over": self.value > self.target,
        }[self.sense]

    def cells(self) -> list[str]:
        """Return the cells of the figure's row: what, target, measured, whether it was met."""
        target = "" if self.target is None else f"{self.sense} {number(self.target, self.unit)}"
        value = "not measured" if self.value is None else number(self.value, self.unit)
        met = {True: "met", False: "**missed**", None: ""}[self.met]
        what = f"{self.what} ({self.note})" if self.note else self.what
        return [what, target, value, met]


@dataclass
class Report:
    """The result of one run of the bench ``name``.

    ``details`` goes into the JSON file only; ``table`` stands for the figures in the documents.
    """

    name: str
    quick: bool = False
    figures: list[Figure] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    table: str = ""

    def add(self, what: str, value: float | None, unit: str = "", **more: Any) -> None:
        """Add a figure; arguments as `Figure`'s."""
        self.figures.append(Figure(what, value, unit, **more))

    @property
    def path(self) -> Path:
        """The JSON file. Quick runs have their own folder, and replace no result of a full run."""
        return (RESULTS / "quick" if self.quick else RESULTS) / f"{self.name}.json"

    def finish(self) -> None:
        """Print the table and write the JSON file."""
        print()
        print(figure_table(self.figures))
        document = {
            "name": self.name,
            # The module, not the bench: one module may implement several benches.
            "command": " ".join([f"python -m bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
            "quick": self.quick,
            "machine": machine(),
            "figures": [asdict(figure) | {"met": figure.met} for figure in self.figures],
            "details": self.details,
            "table": self.table,
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", "utf-8")
        print(f"\nwritten to {self.path}")


def figures_of(document: Mapping[str, Any]) -> list[Figure]:
    """Return the figures of a result file's content."""
    return [
        Figure(**{name: value for name, value in figure.items() if name != "met"})
        for figure in document["figures"]
    ]


def figure_table(figures: Iterable[Figure]) -> str:
    """Return figures with their targets as a Markdown table."""
    return table(["what", "target", "measured", ""], [figure.cells() for figure in figures])


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *([str(cell) for cell in row] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def number(value: float, unit: str = "") -> str:
    """Return a number with about three significant digits."""
    if unit == "%":
        return f"{value:.1f} %"
    size = abs(value)
    if value == int(value) or size >= 100:
        text = f"{value:,.0f}"
    else:
        text = f"{value:.2f}" if size >= 0.1 else f"{value:.2g}"
    return f"{text} {unit}" if unit else text
