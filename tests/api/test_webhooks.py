"""Webhooks from outside: the fields, what is told, what can be seen of it."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from testkit import contract
from testkit.curl import curl
from testkit.paths import DATA, ROOT
from testkit.receiver import receiving
from testkit.running import Api, Server
from testkit.waiting import until
from upscaled.callers import hash_of
from upscaled.outgoing import signatures

SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"
OTHER = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
LOCAL = {"outgoing__allow": "127.0.0.1", "outgoing__ports": "", "webhooks__retry_seconds": "1,1"}


async def test_a_receiver_is_told_of_a_job_and_the_message_fits_the_contract(
    serve: Callable[..., Server],
) -> None:
    server = serve(**LOCAL, webhooks__secret=SECRET, server__public_url="https://up.example/x")
    async with receiving() as receiver, Api(server) as caller:
        job_id = await caller.completed(
            callback_url=receiver.url + "?token=hidden", callback_events="started , completed"
        )
        await receiver.until(lambda: len(receiver.taken) == 2)
        for request in receiver.taken:
            contract.validate(request.json, "/components/schemas/WebhookMessage")
            expected = signatures.headers(
                signatures.keys_of(SECRET),
                request.id,
                int(request.headers["webhook-timestamp"]),
                request.body,
            )
            assert expected.items() <= request.headers.items()
            assert request.path == "/hook?token=hidden"
        assert [r.json["type"] for r in receiver.taken] == ["job.started", "job.completed"]
        link = receiver.taken[1].json["data"]["download_url"]
        assert link == f"https://up.example/x/api/v1/download/{job_id}"
        told = (await caller.get(f"/webhooks/{job_id}")).json
        assert told["receiver"] == f"http://127.0.0.1:{receiver.port}", "the rest may be secret"
        assert told["callback_events"] == ["started", "completed"]
        assert [message["id"] for message in told["messages"]] == [r.id for r in receiver.taken]
        assert "hidden" not in (await caller.get(f"/status/{job_id}")).body.decode()


async def test_each_token_has_its_own_secrets(serve: Callable[..., Server]) -> None:
    server = serve(
        **LOCAL,
        server__tokens=f"ann={hash_of('a')},bob={hash_of('b')}",
        server__auth_token="main",
        webhooks__secret=SECRET,
        webhooks__secrets=f"ann={OTHER} {SECRET}",
    )
    async with receiving() as receiver:
        for token in ("a", "b", "main"):
            async with Api(server, token) as caller:
                job_id = await caller.completed(callback_url=receiver.url)
            await receiver.until(lambda: any(job_id in r.id for r in receiver.taken))  # noqa: B023
        async with Api(server, "b") as caller:
            assert (await caller.get(f"/webhooks/{job_id}")).status == 404, "main's"
    keys = [len(request.headers.get("webhook-signature", "").split()) for request in receiver.taken]
    assert keys == [2, 0, 1]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"callback_url": "http://127.0.0.1/"}, "127.0.0.1 is no public address"),
        ({"callback_url": "http://2130706433/"}, "127.0.0.1 is no public address"),
        ({"callback_url": "http://localhost/"}, "localhost is no public address"),
        ({"callback_url": "http://169.254.169.254/latest"}, "is no public address"),
        ({"callback_url": "https://me:secret@photos.example/"}, "user name or password"),
        ({"callback_url": "https://93.184.216.34:22/"}, "connects to 80, 443 only"),
        ({"callback_url": "ftp://photos.example/"}, "must start with http:// or https://"),
        ({"callback_url": "photos.example/hook"}, "must start with http:// or https://"),
        ({"callback_url": "https://93.184.216.34/", "callback_events": "done"}, "has 'done'"),
        ({"callback_events": "completed"}, "needs callback_url"),
        ({"callback_url": "https://x.example/" + 4096 * "x"}, "longer than 4096 bytes"),
    ],
)
async def test_wrong_fields_are_refused(api: Api, fields: dict[str, str], told: str) -> None:
    answer = await api.upscale(b"not looked at", fields)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert told in answer.json["error"]


async def test_webhooks_can_be_switched_off(serve: Callable[..., Server]) -> None:
    async with Api(serve(features__webhooks="false")) as caller:
        answer = await caller.upscale(b"x", {"callback_url": "https://93.184.216.34/"})
        assert (answer.status, "features.webhooks" in answer.json["error"]) == (400, True)


async def test_the_outbox_is_bounded(serve: Callable[..., Server]) -> None:
    server = serve(**LOCAL, webhooks__max_pending="2")
    refusing = receiving(lambda _: web.Response(status=500, headers={"Retry-After": "9"}))
    async with refusing as receiver, Api(server) as caller:
        for _ in range(2):
            await caller.completed(callback_url=receiver.url)
        answer = await caller.upscale(None, {"callback_url": receiver.url})
        answer = await caller.upscale(b"x", {"callback_url": receiver.url})
        assert (answer.status, answer.json["code"]) == (503, "outbox_full")
        assert int(answer.headers["retry-after"]) > 0
        await caller.completed()


async def test_a_job_without_a_receiver_has_no_messages(api: Api) -> None:
    job_id = await api.completed()
    assert (await api.get(f"/webhooks/{job_id}")).json == {"job_id": job_id, "messages": []}


async def test_failures_are_shown_and_the_address_is_not_logged(
    serve: Callable[..., Server], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    server = serve(**LOCAL)
    refusing = receiving(lambda _: web.Response(status=500, headers={"Retry-After": "60"}))
    async with refusing as receiver, Api(server) as caller:
        job_id = await caller.completed(callback_url=receiver.url + "?token=hidden")

        def records() -> list[str]:
            return [str(vars(r)) for r in caplog.records if r.name.startswith("upscaled")]

        await until(lambda: any("webhook attempt failed" in record for record in records()))
        message = (await caller.get(f"/webhooks/{job_id}")).json["messages"][0]
        assert (message["state"], message["attempts"]) == ("pending", 1)
        assert (message["last_status"], message["last_error"]) == (500, "It answered 500.")
        assert message["next_attempt"] > message["created"] + 50
        assert not any("hidden" in record for record in records())


async def test_the_receiver_of_the_documentation_checks_signatures(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    page = (ROOT / "docs" / "webhooks.md").read_text("utf-8")
    program = re.findall(r"```python\n(.*?)```", page, re.DOTALL)[0]
    assert len([line for line in program.splitlines() if line.strip()]) <= 20
    file = tmp_path / "receiver.py"
    file.write_text(program)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    receiver = await asyncio.create_subprocess_exec(
        *(sys.executable, str(file)),
        env={**os.environ, "WEBHOOK_SECRET": OTHER, "PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert receiver.stdout is not None
    assert receiver.stderr is not None
    server = serve(**LOCAL, webhooks__secret=f"{SECRET} {OTHER}")
    stranger = serve(**LOCAL, webhooks__secret=SECRET)
    try:
        form = ("-F", f"image=@{DATA / 'coffee.jpg'}", "-F", "model_name=realesr-animevideov3")
        hook = ("-F", f"callback_url=http://127.0.0.1:{port}/hook", "-F", "scale=2")
        jobs = []
        for one in (stranger, server):
            done = await curl("-sS", "--fail", *form, *hook, one.url + "/upscale")
            jobs += re.findall("[0-9]{19}", done.stdout)[:1]
            await one.ended(jobs[-1])
        line = await asyncio.wait_for(receiver.stdout.readline(), 60)
        assert line.decode().split() == ["job.completed", jobs[1]], "the other's is refused"
        assert b" 400 " in await asyncio.wait_for(receiver.stderr.readline(), 60)
    finally:
        receiver.kill()
        await receiver.communicate()


def test_the_table_of_pauses_is_the_setting() -> None:
    from upscaled.config.settings import WebhookSettings

    page = (ROOT / "docs" / "webhooks.md").read_text("utf-8")
    units = {"s": 1, "min": 60, "h": 3600}
    rows = re.findall(r"^\| \d+ \| (\d+) (s|min|h) \|$", page, re.MULTILINE)
    assert tuple(int(n) * units[unit] for n, unit in rows) == WebhookSettings().retry_seconds


async def test_jobs_that_share_work_are_each_told(serve: Callable[..., Server]) -> None:
    server = serve(**LOCAL, storage__result_cache_mb="10")
    async with receiving() as receiver, Api(server) as caller:
        fields = {"callback_url": receiver.url, "callback_events": "started,completed"}
        together = await asyncio.gather(*(caller.accepted(None, **fields) for _ in range(2)))
        for job_id in together:
            await server.ended(job_id)
        cached = await caller.accepted(None, **fields)
        await receiver.until(lambda: len(receiver.taken) == 6)
        for job_id in (*together, cached):
            told = [r.json["type"] for r in receiver.taken if job_id in r.id]
            assert told == ["job.started", "job.completed"]
