"""A small storm over a whole cluster: nothing that callers were told is impossible."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from testkit.history import History
from testkit.receiver import Received, receiving
from testkit.storm import (
    BLOBS,
    CUTS,
    DATABASES,
    SERVERS,
    WORKERS,
    Storm,
    cluster_for_storms,
    fickle,
    is_cuttable,
    pictures,
    weather,
)


async def test_whatever_fails_at_the_same_time_each_accepted_job_ends_once_with_its_picture(
    tmp_path: Path, models_dir: Path
) -> None:
    shown = await pictures(tmp_path, models_dir, 6)
    async with (
        cluster_for_storms(tmp_path, models_dir) as (cluster, store),
        receiving(fickle()) as receiver,
    ):
        turns = [WORKERS, DATABASES, *([CUTS] if is_cuttable(cluster) else []), SERVERS]
        storm = Storm(cluster, store, pause=1, blob_seconds=8, turns=turns)
        history = History()
        async with asyncio.timeout(150):
            wanted = await weather(cluster, storm, history, shown, 30, receiver)
    assert history.problems(wanted) == []
    assert history.message_problems(receiver.requests, receiver.taken) == []
    assert storm.struck == dict.fromkeys(turns, 1) | {BLOBS: 8}
    assert len(wanted) >= 30
    assert sum(history.refusals.values()) > 0, "callers noticed"
    assert len(receiver.requests) > len(receiver.taken) >= len(history.due_events())


def message(job_id: str, event: str, *, number: str = "", text: str = "") -> Received:
    body = {"type": f"job.{event}", "data": {"job_id": job_id, "text": text}}
    headers = {"webhook-id": f"msg_{job_id}_{event}{number}"}
    return Received(headers, json.dumps(body).encode(), "/hook")


A = (message("a", "started"), message("a", "completed"))
B = (message("b", "cancelled"),)


@pytest.mark.parametrize(
    ("taken", "said"),
    [
        ([*A, *B], []),
        ([*A, *A, message("b", "started"), *B], []),
        ([A[0], *B], ["a: job.completed was not delivered"]),
        ([A[1], *B], ["a: job.started was not delivered"]),
        (
            [*A, *B, message("b", "completed")],
            ["b: job.completed was sent, and it ended as cancelled"],
        ),
        (
            [*A, *B, message("c", "started")],
            ["c: job.started was sent, and it ended as None"],
        ),
        (
            [*A, *B, message("b", "cancelled", number="2")],
            ["('b', 'job.cancelled') has the ids ['msg_b_cancelled', 'msg_b_cancelled2']"],
        ),
        ([*A, *B, message("b", "cancelled", text="x")], ["msg_b_cancelled has 2 contents"]),
        ([A[1], A[0], *B], ["a: its start was told after its end"]),
    ],
)
def test_messages_that_are_lost_or_untrue_are_found_out(
    taken: list[Received], said: list[str]
) -> None:
    history = History()
    for job_id, end in (("a", "completed"), ("b", "cancelled")):
        history.add(job_id, 0.0, "server", "accepted")
        history.add(job_id, 0.0, "server", end)
    assert history.message_problems(taken, taken) == said
