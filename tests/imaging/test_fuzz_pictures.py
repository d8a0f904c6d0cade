"""The short form of the picture fuzzer; `python -m bench.fuzz_pictures` is the long one."""

from __future__ import annotations

from pathlib import Path

from testkit.picture_fuzz import fuzz, table


async def test_damaged_pictures_are_refused_or_done_and_leave_nothing(
    tmp_path: Path, models_dir: Path
) -> None:
    outcome = await fuzz(tmp_path, models_dir, inputs=100, seed=3)
    assert outcome.problems == [], table(outcome)
    assert sum(outcome.answers.values()) == 100
