"""The short form of the torture test; `python -m bench.torture` is the long one."""

from __future__ import annotations

from pathlib import Path

from testkit.torture import table, torture


async def test_a_server_that_is_killed_again_and_again_loses_nothing(
    tmp_path: Path, models_dir: Path
) -> None:
    tally = await torture(tmp_path, models_dir, jobs=12, kills=3, seed=7)
    assert tally.problems == [], table(tally)
    assert len(tally.accepted) == 12
    assert tally.kills == 3
