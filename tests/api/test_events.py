"""What the server writes down: one line an event, tied to its request and its job, no secrets."""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from urllib.parse import quote

import pytest

from testkit.running import Api, Server, a_picture
from testkit.waiting import until
from upscaled import logs
from upscaled.config.settings import LoggingSettings

TOKEN = "s3cret-of-the-caller"
FORGED = 'x.png\n2026-01-01T00:00:00.000Z ERROR upscaled: forged job=1 level="error"\r\x1b[2J\u2028'


@pytest.fixture(params=["json", "text"])
def form(request: pytest.FixtureRequest) -> str:
    """The form of the lines."""
    return str(request.param)


@pytest.fixture
def written(form: str) -> Iterator[io.StringIO]:
    """What is logged, everything of it; the root logger is as before afterwards."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    stream = io.StringIO()
    logs.configure(LoggingSettings(level="debug", format=form), stream)
    yield stream
    root.setLevel(level)
    root.handlers[:] = handlers


_MULTIPART = {"Content-Type": "multipart/form-data; boundary=edge"}


def _hostile(picture: bytes) -> bytes:
    """Return a submission of ``picture`` under the name `FORGED`, which no good client sends."""
    disposition = f"form-data; name=\"image\"; filename*=UTF-8''{quote(FORGED, safe='')}"
    model = b'Content-Disposition: form-data; name="model_name"\r\n\r\nrealesr-animevideov3'
    scale = b'Content-Disposition: form-data; name="scale"\r\n\r\n2'
    image = f"Content-Disposition: {disposition}\r\n\r\n".encode() + picture
    return b"--edge\r\n" + b"\r\n--edge\r\n".join([model, scale, image]) + b"\r\n--edge--\r\n"


@pytest.mark.parametrize("given", ["abc-123", "0f4b6f1e-6c1d-4e53-9a3c-2b0f5f9e3a11", "a" * 128])
async def test_a_sane_request_id_comes_back(api: Api, given: str) -> None:
    for path in ("/models", "/nothing", "/status/1000000000000000000", "/docs"):
        answer = await api.get(path, headers={"X-Request-ID": given})
        assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", [None, "", "a b", "-x", "a" * 129, 'a"b', "ä", "a\tb", "<b>"])
async def test_any_other_request_gets_an_id_of_our_own(api: Api, given: str | None) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    ids = set()
    for _ in range(2):
        answer = await api.get("/models", headers=headers)
        ids.add(answer.headers["x-request-id"])
    assert len(ids) == 2
    assert all(len(found) == 32 and found.isalnum() for found in ids)


async def test_the_life_of_a_job_is_a_line_an_event(
    serve: Callable[..., Server], written: io.StringIO, form: str
) -> None:
    picture = a_picture()
    server = serve(server__auth_token=TOKEN)
    async with Api(server, TOKEN) as api:
        answer = await api.post("/upscale", data=_hostile(picture), headers=_MULTIPART)
        assert answer.status == 202, answer
        job_id = answer.json["job_id"]
        await server.ended(job_id)
        await api.get(f"/download/{job_id}")
        await api.get(f"/status/{job_id}", headers={"X-Auth-Token": "s3cret-but-wrong"})
        refused = await api.upscale(
            picture, {"model_name": "no such\nmodel ERROR"}, filename="y.png"
        )
        assert refused.status == 400
        await api.get("/nothing%0Ahere")
    async with Api(server, "s3cret-but-wrong") as stranger:
        assert (await stranger.get("/models")).status == 401
    text = written.getvalue()
    lines = text.removesuffix("\n").split("\n")
    assert text.splitlines() == lines  # nothing else ends a line either
    assert all(line.isprintable() for line in lines)
    for secret in (TOKEN, "s3cret", base64.b64encode(picture).decode()[:40], "PNG\\r"):
        assert secret not in text

    if form == "text":
        assert not [line for line in lines if line.startswith("2026-01-01T00:00:00.000Z ERROR")]
        assert f"job completed job={job_id} device=cpu engine=builtin seconds=" in text
        return
    events = [json.loads(line) for line in lines]
    own = [event for event in events if event.get("job") == job_id]
    assert [(event["message"], event.get("stage")) for event in own] == [
        ("job submitted", None),
        ("job started", None),
        ("stage done", "upscale"),
        ("stage done", "finish"),
        ("job completed", None),
        ("job's result downloaded and deleted", None),
    ]
    assert own[0]["request"] == answer.headers["x-request-id"]
    assert own[2]["device"] == "cpu"
    assert all(event["seconds"] >= 0 for event in own if "stage" in event)
    (refusal,) = [e for e in events if e.get("request") == refused.headers["x-request-id"]]
    assert (refusal["message"], refusal["status"]) == ("request refused", 400)
    assert refusal["code"] == "unknown_model"


async def test_a_cancelled_and_a_failed_job_are_events_too(
    serve: Callable[..., Server], written: io.StringIO
) -> None:
    server = serve()
    async with Api(server) as api:
        cancelled = await api.accepted(a_picture(600, 500), scale="4")
        await api.post(f"/cancel/{cancelled}")
        broken = await api.upscale(a_picture(64, 64)[:-200], {"model_name": "realesr-animevideov3"})
        if broken.status == 202:
            await server.ended(broken.json["job_id"])
        # Who waits for a job may hear of it before the log does.
        await until(lambda: re.search("job failed|request refused", written.getvalue()))
    assert "job cancelled" in written.getvalue()
