"""Webhooks of a whole service, over restarts."""

from __future__ import annotations

from pathlib import Path

from aiohttp import web

from testkit.receiver import receiving
from testkit.services import make_config, running, submit
from testkit.waiting import tasks_named


async def test_what_was_not_delivered_is_sent_by_the_next_run_unless_webhooks_are_off(
    tmp_path: Path, models_dir: Path, thumbnail: Path
) -> None:
    config = make_config(
        tmp_path / "data",
        models_dir,
        upscaler__gpu_ids="-1",
        outgoing__allow="127.0.0.1",
        outgoing__ports="",
        webhooks__retry_seconds="1,1,1,1,1",
    )
    off = make_config(
        tmp_path / "data", models_dir, upscaler__gpu_ids="-1", features__webhooks="false"
    )
    async with receiving(lambda _: web.Response(status=500)) as receiver:
        async with running(config) as service:
            job = await submit(service, thumbnail, callback_url=receiver.url)
            await service.jobs.wait(job.id)
            await receiver.until(lambda: bool(receiver.requests))
        async with running(off) as service:
            assert tasks_named("webhook") == []
            _, messages = await service.jobs.messages(job.id)
            assert [message.state for message in messages] == ["pending"]
        receiver.answer = lambda _: web.Response()
        async with running(config):
            await receiver.until(lambda: bool(receiver.taken))
    assert receiver.taken[0].json["type"] == "job.completed"
    assert receiver.taken[0].body == receiver.requests[0].body
