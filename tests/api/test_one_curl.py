"""One curl from picture to picture, and the other ways that callers send and wait."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from testkit.contract import Answer
from testkit.curl import curl
from testkit.running import FAST_MODEL, Api, Server, a_picture
from testkit.waiting import SLOW, tasks_named, until_in, until_waited_for
from upscaled.errors import UnusablePictureError
from upscaled.pipeline.pipeline import Pipeline

FAST = {"model_name": FAST_MODEL, "scale": "2"}
QUERY = f"model_name={FAST_MODEL}&scale=2"
WANTS_PICTURE = {"Accept": "image/*"}


async def sent(api: Api, query: str, fields: Mapping[str, str] = FAST, **headers: str) -> Answer:
    """Submit a picture with a query."""
    return await api.upscale(a_picture(), fields, query=query, headers=headers)


def size_of(picture: bytes) -> tuple[int, int]:
    """Return width and height of an encoded picture."""
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.size


async def test_one_curl_turns_a_picture_into_a_larger_one(server: Server, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(a_picture(24, 16, "JPEG"))
    done = await curl(
        *("-sS", "--fail", "-F", "image=@photo.jpg", f"{server.url}/upscale?wait=60&{QUERY}"),
        *("-H", "Accept: image/*", "-o", "big.jpg", "-D", "-"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done
    picture = (tmp_path / "big.jpg").read_bytes()
    assert size_of(picture) == (48, 32)
    head = dict(line.lower().split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    assert head["content-type"] == "image/jpeg"
    assert head["content-disposition"] == 'attachment; filename="photo_2x.jpg"'
    digest = b64encode(hashlib.sha256(picture).digest()).decode()
    assert head["repr-digest"] == f"sha-256=:{digest}:".lower()
    assert head["upscaled-result"] == "upscaled"
    again = await curl(
        "-sS", "-w", "%{http_code}", server.url.removesuffix("/api/v1") + head["content-location"]
    )
    assert again.stdout.endswith("410"), "delivered, so deleted"


@pytest.mark.parametrize("accept", ["*/*", "application/json", "image/*;q=0"])
async def test_whoever_wants_no_picture_gets_the_completed_job(api: Api, accept: str) -> None:
    answer = await sent(api, "?wait=45", Accept=accept)
    told = answer.json
    assert answer.status == 200
    assert list(told)[:3] == ["success", "job_id", "status_url"]
    assert (told["success"], told["status"], told["progress"]) == (True, "completed", 100)
    assert told["download_url"] == f"/api/v1/download/{told['job_id']}"
    assert (await api.get(f"/download/{told['job_id']}")).status == 200


async def test_a_preference_waits_too_and_is_acknowledged(api: Api) -> None:
    answer = await sent(api, "", Prefer="wait=45")
    assert (answer.status, answer.json["status"]) == (200, "completed")
    assert answer.headers["preference-applied"] == "wait=45"


async def test_a_job_that_takes_longer_is_answered_as_usual(api: Api) -> None:
    answer = await api.upscale(a_picture(300, 300), SLOW, query="?wait=1", headers=WANTS_PICTURE)
    assert (answer.status, answer.json["success"]) == (202, True)
    job_id = answer.json["job_id"]
    assert (await api.get(f"/status/{job_id}")).json["status"] in {"queued", "processing"}
    await api.post(f"/cancel/{job_id}")


async def test_a_failed_job_is_an_error_with_its_status(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.pipeline.run.PipelineRun.prepare", failing)
    answer = await sent(api, "?wait=45", Accept="image/*")
    assert answer.status == 422
    told = answer.json
    assert (told["success"], told["code"], told["status"]) == (False, "job_failed", "failed")
    assert (await api.get(f"/status/{told['job_id']}")).json["error"] == told["error"]


async def failing(_: object) -> None:
    raise UnusablePictureError("The picture is broken.")


@pytest.mark.parametrize("cancels", [True, False])
async def test_who_hangs_up_cancels_only_if_that_was_asked(api: Api, cancels: bool) -> None:
    query = f"?wait=45&cancel_on_disconnect={str(cancels).lower()}"
    async with Api(api.server) as other:
        waiting = asyncio.create_task(other.upscale(a_picture(300, 300), SLOW, query=query))
        job_id = await waited_for(api.server)
        waiting.cancel()
        await asyncio.wait({waiting})
    await until_waited_for(api.server, job_id, wanted=False)
    if cancels:
        assert (await api.server.ended(job_id)).state.value == "cancelled"
    else:
        assert (await api.get(f"/status/{job_id}")).json["status"] in {"queued", "processing"}
        await api.post(f"/cancel/{job_id}")


async def waited_for(server: Server) -> str:
    """Wait until a request waits for a job; return the job's id."""
    (name, *_) = await until_in(server, lambda: tasks_named("wait-"))
    return name.removeprefix("wait-")


@pytest.mark.parametrize("cancels", ["true", "false"])
async def test_a_reader_gets_its_own_picture_when_time_is_over(api: Api, cancels: str) -> None:
    own = a_picture(300, 300)
    query = f"?on_timeout=original&wait=1&cancel_on_timeout={cancels}"
    answer = await api.upscale(own, SLOW, query=query)
    assert (answer.status, answer.body) == (200, own)
    assert answer.headers["content-type"] == "image/png"
    assert answer.headers["upscaled-result"] == "original; reason=timeout"
    state = (await api.get(answer.headers["location"].removeprefix("/api/v1"))).json["status"]
    assert (state == "cancelled") is (cancels == "true")
    if state != "cancelled":
        await api.post("/cancel/" + answer.headers["location"].rpartition("/")[2])


async def test_five_pages_at_once_come_out_larger(api: Api) -> None:
    pages = [api.upscale(a_picture(), FAST, query="?on_timeout=original") for _ in range(5)]
    for answer in await asyncio.gather(*pages):
        assert answer.headers["upscaled-result"] == "upscaled"
        assert size_of(answer.body) == (48, 32)


async def test_a_reader_gets_its_own_picture_when_the_job_fails(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.pipeline.run.PipelineRun.prepare", failing)
    answer = await sent(api, "?on_timeout=original")
    assert (answer.status, answer.body) == (200, a_picture())
    assert answer.headers["upscaled-result"] == "original; reason=failed"


async def test_a_reader_gets_its_own_picture_when_that_is_refused(api: Api) -> None:
    answer = await api.upscale(b"GIF89a no picture", FAST, query="?on_timeout=original")
    assert (answer.status, answer.body) == (200, b"GIF89a no picture")
    assert answer.headers["upscaled-result"] == "original; reason=refused"
    assert api.server.uploads() == []
    wrong = await api.upscale(a_picture(), {"scale": "9"}, query="?on_timeout=original")
    assert wrong.status == 400, "a wrong field is wrong for every page"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--data-binary", "@photo.jpg", "-H", "Content-Type: image/jpeg"],
        ["--data-binary", "@photo.jpg", "-H", "Content-Type: application/octet-stream"],
        ["-H", "Transfer-Encoding: chunked", "-T", "photo.jpg"],
        ["-T", "photo.jpg"],
    ],
)
async def test_the_body_may_be_the_picture_itself(
    server: Server, tmp_path: Path, arguments: list[str]
) -> None:
    (tmp_path / "photo.jpg").write_bytes(a_picture(24, 16, "JPEG"))
    done = await curl(*("-sS", *arguments, f"{server.url}/upscale?wait=45&{QUERY}"), cwd=tmp_path)
    told = json.loads(done.stdout)
    assert told["output_size"] == {"width": 48, "height": 32}, told


async def test_a_file_that_is_put_names_the_result(server: Server, tmp_path: Path) -> None:
    (tmp_path / "größe.jpg").write_bytes(a_picture(24, 16, "JPEG"))
    done = await curl(
        *("-sS", "-T", "größe.jpg", f"{server.url}/upscale/gr%C3%B6%C3%9Fe.jpg?wait=45&{QUERY}"),
        *("-H", "Accept: image/*", "-o", "big.jpg", "-D", "-"),
        cwd=tmp_path,
    )
    assert "filename*=UTF-8''gr%C3%B6%C3%9Fe_2x.jpg" in done.stdout


async def test_curls_default_type_is_refused_with_the_header_to_send(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(a_picture(24, 16, "JPEG"))
    done = await curl("-sS", "--data-binary", "@photo.jpg", f"{server.url}/upscale", cwd=tmp_path)
    told = json.loads(done.stdout)
    assert told["code"] == "unsupported_media_type"
    assert "`Content-Type: image/jpeg`" in told["error"]


@pytest.mark.parametrize(
    ("query", "fields", "sentence"),
    [
        ("?scale=2", {"scale": "2"}, "The field 'scale' was sent twice"),
        ("?scale=2&scale=3", {}, "The field 'scale' was sent twice"),
        ("?scale=5", {}, "scale is '5'; it must be 2, 3 or 4."),
        (
            "?sclae=2",
            {},
            "There is no query parameter 'sclae' here; the parameters are background,",
        ),
        ("?image=x", {}, "There is no query parameter 'image' here"),
        ("?model_name=" + "x" * 2000, {}, "longer than 1024 bytes"),
        ("?wait=61", {}, "wait is '61'; it must be one whole number"),
        ("?wait=3", {"wait": "3"}, "The field 'wait' was sent twice"),
        ("?on_timeout=fail", {}, "on_timeout is 'fail'; it must be original."),
        ("?wait=1&cancel_on_timeout=maybe", {}, "cancel_on_timeout is 'maybe'; it must be true"),
        ("?cancel_on_disconnect=true", {}, "need wait, such as wait=30."),
        ("?wait=0&cancel_on_timeout=true", {}, "need wait, such as wait=30."),
    ],
)
async def test_fields_in_the_query_are_checked_like_those_of_the_form(
    api: Api, query: str, fields: dict[str, str], sentence: str
) -> None:
    answer = await api.upscale(a_picture(), fields, query=query)
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert sentence in answer.json["error"]
    assert api.server.uploads() == []


async def test_an_estimate_takes_its_fields_from_the_query_too(api: Api) -> None:
    picture = {"data": a_picture(), "headers": {"Content-Type": "image/png"}}
    answer = await api.post("/estimate?scale=3", **picture)
    assert answer.json["output_size"] == {"width": 72, "height": 48}
    size = "/estimate?scale=2&input_width=30&input_height=20"
    for headers in ({"Content-Type": "image/png"}, {}):
        answer = await api.post(size, headers=headers)
        assert answer.json["output_size"] == {"width": 60, "height": 40}
    answer = await api.post("/estimate?scale=2")
    assert (answer.status, answer.json["error"]) == (
        400,
        "Send the picture as image, or its size as input_width and input_height.",
    )


async def test_an_internal_error_is_not_blamed_on_the_picture(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Pipeline, "run", fails)
    answer = await sent(api, "?wait=45")
    assert (answer.status, answer.json["code"]) == (500, "job_failed")
    assert answer.json["error"] == "An internal error ended the job; the server's log has more."
