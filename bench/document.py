"""Rewrite the measured tables in docs/ from the result files.

A table is between ``<!-- bench NAME -->`` and ``<!-- /bench -->``; the text outside is written by
hand and stays as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bench.report import RESULTS, figure_table, figures_of
from testkit.paths import ROOT

DOCUMENTS = tuple(ROOT / "docs" / name for name in ("performance.md", "scheduling.md", "models.md"))

_PLACE = re.compile(r"(<!-- bench (\w+) -->\n).*?(<!-- /bench -->)", re.DOTALL)


def load(path: Path) -> dict[str, Any] | None:
    """Return a result file's content, None if the file does not exist."""
    try:
        document: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    return document


def machine_line(machine: Mapping[str, Any]) -> str:
    """Return date, commit and machine in one line.

    Results of older versions lack some of it.
    """
    parts = [
        str(machine["date"]),
        machine.get("commit") and f"commit {machine['commit']}",
        machine["processor"],
        machine.get("instructions"),
        f"{machine['cores']} cores",
        f"{machine['memory_gib']} GiB",
        f"Linux {machine['kernel']}",
        f"Python {machine['python']}",
        f"ncnn {machine['ncnn']}",
        machine.get("openvino") and f"OpenVINO {machine['openvino']}",
        f"load {machine['load']}",
    ]
    return ", ".join(part for part in parts if part)


def section(result: Mapping[str, Any]) -> str:
    """Return the text between the marks: command, table, machine."""
    table = result.get("table") or figure_table(figures_of(result))
    return f"\n    {result['command']}\n\n{table}\n\n{machine_line(result['machine'])}\n\n"


def rewritten(text: str, results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return ``text`` with the tables of ``results`` (by bench) replaced."""

    def replace(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        return f"{begin}{section(results[name])}{end}" if name in results else found[0]

    return _PLACE.sub(replace, text)


def rewrite(names: Iterable[str], folder: Path = RESULTS) -> None:
    """Write the results of ``names``, where they exist, into the documents."""
    results = {name: result for name in names if (result := load(folder / f"{name}.json"))}
    for document in DOCUMENTS:
        document.write_text(rewritten(document.read_text("utf-8"), results), "utf-8")
