"""The measured tables of docs/performance.md, rewritten from the result files.

A table stands between ``<!-- bench NAME -->`` and ``<!-- /bench -->``; whatever stands outside is
written by hand and left alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.report import RESULTS, figure_table, figures_of

DOCUMENT = Path(__file__).parent.parent / "docs" / "performance.md"

_PLACE = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def load(path: Path) -> dict[str, Any] | None:
    """Return a result file's content; None: there is none."""
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return document


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return what a machine is, in a line."""
    return (
        f"{machine['date']}, {machine['processor']}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, Python {machine['python']}, "
        f"ncnn {machine['ncnn']}, load {machine['load']}"
    )


def section(result: Mapping[str, Any]) -> str:
    """Return what stands between the marks: command, machine, table."""
    table = figure_table(figures_of(result))
    return f"\n    {result['command']}\n\n{table}\n\n{machine_line(result['machine'])}\n\n"


def rewritten(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return ``text`` with the tables of ``results``, by bench; others stay as they are."""

    def replace(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        return f"{begin}{section(results[name])}{end}" if name in results else found[0]

    return _PLACE.sub(replace, text)


def rewrite(names: Iterable[str], folder: Path = RESULTS) -> None:
    """Put the results of ``names`` that there are into the document."""
    results = {name: result for name in names if (result := load(folder / f"{name}.json"))}
    DOCUMENT.write_text(rewritten(DOCUMENT.read_text("utf-8"), results), "utf-8")
