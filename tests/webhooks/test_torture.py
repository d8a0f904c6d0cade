"""The short form of the webhooks' torture test; `python -m bench.webhooks` is the long one."""

from __future__ import annotations

from pathlib import Path

from testkit.webhook_torture import table, torture


async def test_every_event_is_told_in_order_though_server_and_receiver_die(
    tmp_path: Path, models_dir: Path
) -> None:
    told = await torture(tmp_path, models_dir, jobs=40, kills=3, restarts=3, seed=5)
    assert told.problems == [], table(told)
    assert told.kills == told.restarts == 3
    assert told.events >= 40
    assert told.requests > told.taken, "half of the messages were answered with an error"
