"""A small storm over a whole cluster: nothing that callers were told is impossible."""

from __future__ import annotations

import asyncio
from pathlib import Path

from testkit.history import History
from testkit.storm import (
    BLOBS,
    CUTS,
    DATABASES,
    SERVERS,
    WORKERS,
    Storm,
    cluster_for_storms,
    is_cuttable,
    pictures,
    weather,
)


async def test_whatever_fails_at_the_same_time_each_accepted_job_ends_once_with_its_picture(
    tmp_path: Path, models_dir: Path
) -> None:
    shown = await pictures(tmp_path, models_dir, 6)
    async with cluster_for_storms(tmp_path, models_dir) as (cluster, store):
        turns = [WORKERS, DATABASES, *([CUTS] if is_cuttable(cluster) else []), SERVERS]
        storm = Storm(cluster, store, pause=1, blob_seconds=8, turns=turns)
        history = History()
        async with asyncio.timeout(150):
            wanted = await weather(cluster, storm, history, shown, 30)
    assert history.problems(wanted) == []
    assert storm.struck == dict.fromkeys(turns, 1) | {BLOBS: 8}
    assert len(wanted) >= 30
    assert sum(history.refusals.values()) > 0, "callers noticed"
