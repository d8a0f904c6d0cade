"""Compare the results of two versions, figure by figure.

    python -m bench.compare BEFORE AFTER [--noise 10]

BEFORE and AFTER are result files, or folders of them, such as ``bench/results/quick``. Each figure
that both have is shown with the ratio of the two values. A figure that was renamed between the two
versions is matched by its position, if both results have as many figures.
Figures that changed by more than ``--noise`` percent are marked, as better or worse where they have
a target.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.document import machine_line
from bench.report import Figure, figures_of, number, table

Result = Mapping[str, Any]


def results(path: Path) -> dict[str, Result]:
    """Return the results in a file or in a folder, by the name of the bench.

    Raises:
        FileNotFoundError: there is no result.
    """
    files = sorted(path.glob("*.json")) if path.is_dir() else [path]
    found = [json.loads(file.read_text("utf-8")) for file in files]
    by_name = {result["name"]: result for result in found if "figures" in result}
    if not by_name:
        raise FileNotFoundError(f"There is no result of a bench in {path}.")
    return by_name


def pairs(before: Result, after: Result) -> Iterator[tuple[Figure | None, Figure | None]]:
    """Yield the figures of two results of one bench; None where one of them lacks a figure."""
    old, new = figures_of(before), figures_of(after)
    by_name = {figure.what: figure for figure in old}
    names = {figure.what for figure in new}
    for index, figure in enumerate(new):
        match = by_name.pop(figure.what, None)
        if match is None and len(old) == len(new):
            renamed = old[index]
            if renamed.what not in names:
                match = by_name.pop(renamed.what, None)
        yield match, figure
    for figure in by_name.values():
        yield figure, None


def row(before: Figure | None, after: Figure | None, noise: float) -> list[str]:
    """Return the row of a figure: what, before, after, ratio, verdict."""
    shown = after or before
    assert shown is not None
    name = shown.what
    if before and after and before.what != after.what:
        name += f" (was: {before.what})"
    values = [one.value if one else None for one in (before, after)]
    cells = [name, *("–" if value is None else number(value, shown.unit) for value in values)]
    old, new = values
    if old is None or new is None or old * new <= 0:  # no ratio means anything
        return [*cells, "", ""]
    ratio = new / old
    return [*cells, f"{ratio:.2f}", _verdict(shown, ratio, noise)]


def _verdict(figure: Figure, ratio: float, noise: float) -> str:
    if 1 / (1 + noise / 100) <= ratio <= 1 + noise / 100:
        return ""
    if figure.target is None:
        return "changed"
    smaller_is_better = figure.sense in {"at most", "under"}
    return "better" if (ratio < 1) == smaller_is_better else "**worse**"


def comparison(before: Mapping[str, Result], after: Mapping[str, Result], noise: float) -> str:
    """Return the comparison of all benches as text."""
    lines = []
    for name in dict.fromkeys([*before, *after]):
        lines += [f"## {name}", ""]
        if name not in before or name not in after:
            lines += [f"There is no result {'before' if name not in before else 'after'}.", ""]
            continue
        old, new = before[name], after[name]
        rows = [row(*pair, noise) for pair in pairs(old, new)]
        lines += [table(["what", "before", "after", "ratio", ""], rows), ""]
        lines += [f"before: {machine_line(old['machine'])}", ""]
        lines += [f"after: {machine_line(new['machine'])}", ""]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="bench.compare",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--noise", type=float, default=10, help="percent that count as no change")
    options = parser.parse_args(arguments)
    try:
        before, after = results(options.before), results(options.after)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    print(comparison(before, after, options.noise))
    return 0


if __name__ == "__main__":
    sys.exit(main())
