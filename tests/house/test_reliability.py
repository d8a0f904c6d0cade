"""The tests that docs/reliability.md names exist."""

from __future__ import annotations

import re

from testkit.paths import ROOT

_NAMED = re.compile(r"`([a-z_/]+\.py)(?:::(\w+))?`")


def test_every_test_of_a_fault_is_there() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text()
    section = text.split("## Faults that were found, and their tests")[1]
    rows = [line for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 20
    for row in rows:
        named = _NAMED.findall(row.rsplit("|", 2)[1])
        assert named, f"no test: {row}"
        for path, name in named:
            source = ROOT / "tests" / path
            assert source.is_file(), path
            assert not name or re.search(rf"def {name}\(", source.read_text()), name
