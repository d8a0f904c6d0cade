"""The API as its guide describes it, from submission to download."""

from __future__ import annotations

import io
import re
import time

import pytest
from PIL import Image

from testkit.running import FAST_MODEL, Api, Server, a_picture
from upscaled import __version__


async def test_a_picture_goes_the_whole_way(api: Api, server: Server) -> None:
    picture = a_picture(20, 12)
    fields = {"scale": "4", "model_name": FAST_MODEL, "format": "webp", "tile_size": "0"}
    answer = await api.upscale(picture, fields, filename="Ein Foto.png")

    assert answer.status == 202
    job_id = answer.json["job_id"]
    assert re.fullmatch(r"[0-9]{19}", job_id)
    url = f"/api/v1/status/{job_id}"
    guides = f'{{"success":true,"job_id":"{job_id}","status_url":"{url}"'
    assert answer.body.decode().startswith(guides)

    await server.ended(job_id)
    status = await api.get(f"/status/{job_id}")
    told = status.json
    assert told["status"] == "completed"
    assert told["progress"] == 100
    assert told["download_url"] == f"/api/v1/download/{job_id}"
    assert 0 <= told["duration_seconds"] < 60
    assert told["input_size"] == {"width": 20, "height": 12}
    assert told["output_size"] == {"width": 80, "height": 48}
    assert told["attempts"][-1]["outcome"] == "ok"
    assert f'"job_id":"{job_id}","status":"completed","progress":100,'.encode() in status.body

    download = await api.get(f"/download/{job_id}")
    assert download.status == 200
    assert download.headers["content-type"] == "application/octet-stream"
    assert download.headers["content-disposition"].startswith("attachment; filename=")
    assert len(download.body) == told["file_size_bytes"]
    with Image.open(io.BytesIO(download.body)) as result:
        assert (result.format, result.size) == ("WEBP", (80, 48))

    again = await api.get(f"/download/{job_id}")
    assert (again.status, again.json["code"]) == (410, "already_downloaded")
    assert (await api.get(f"/status/{job_id}")).json["status"] == "completed"


@pytest.mark.parametrize(("kind", "suffix"), [("PNG", "png"), ("JPEG", "jpg"), ("WEBP", "webp")])
async def test_the_result_has_the_format_of_the_upload(api: Api, kind: str, suffix: str) -> None:
    job_id = await api.completed(a_picture(kind=kind), filename=f"photo.{suffix}")
    download = await api.get(f"/download/{job_id}")
    with Image.open(io.BytesIO(download.body)) as result:
        assert result.format == kind
    assert f"_2x.{suffix}" in download.headers["content-disposition"]


async def test_the_default_is_scale_4_with_the_general_model(api: Api, server: Server) -> None:
    answer = await api.upscale(a_picture(12, 8))
    await server.ended(answer.json["job_id"])
    told = (await api.get(f"/status/{answer.json['job_id']}")).json
    assert told["output_size"] == {"width": 48, "height": 32}
    assert (told["model_name"], told["scale"]) == ("realesrgan-x4plus", 4)


async def test_a_waiting_and_a_running_job_tell_their_progress_and_can_be_cancelled(
    api: Api, server: Server
) -> None:
    # Large enough to be still at it while the second waits.
    running = await api.accepted(a_picture(400, 400), model_name="realesrgan-x4plus")
    waiting = await api.accepted()
    first = await api.get(f"/status/{waiting}")
    assert first.json["status"] == "queued"
    assert first.json["progress"] == 0

    cancelled = await api.post(f"/cancel/{waiting}")
    assert cancelled.json == {"success": True, "job_id": waiting, "status": "cancelled"}
    assert (await api.get(f"/status/{waiting}")).json["status"] == "cancelled"

    assert (await api.get(f"/status/{running}")).json["status"] in {"queued", "processing"}
    early = await api.get(f"/download/{running}")
    assert (early.status, early.json["code"]) == (409, "wrong_state")
    assert (await api.post(f"/cancel/{running}")).status == 200
    assert (await server.ended(running)).state.value == "cancelled"

    twice = await api.post(f"/cancel/{running}")
    assert (twice.status, twice.json["code"]) == (409, "wrong_state")
    gone = await api.get(f"/download/{running}")
    assert gone.status == 409


async def test_a_picture_that_breaks_off_fails_or_is_refused_with_a_sentence(
    api: Api, server: Server
) -> None:
    whole = a_picture(64, 64)
    answer = await api.upscale(whole[: len(whole) // 2], {"model_name": FAST_MODEL})
    if answer.status == 202:
        await server.ended(answer.json["job_id"])
        told = (await api.get(f"/status/{answer.json['job_id']}")).json
        assert told["status"] == "failed"
        assert told["error"]
    else:
        assert answer.status == 422


async def test_models_are_listed_and_filtered_by_scale(api: Api) -> None:
    told = (await api.get("/models")).json
    assert told["version"] == __version__
    scales = {model["name"]: model["supported_scales"] for model in told["models"]}
    assert scales["realesrgan-x4plus"] == [4]
    assert scales["realesr-animevideov3"] == [2, 3, 4]
    assert scales["realesrgan-x4plus-anime"] == [4]

    threes = (await api.get("/models?scale=3")).json["models"]
    assert [model["name"] for model in threes] == ["realesr-animevideov3"]
    assert (await api.get("/models?scale=7")).json["models"] == []
    assert (await api.get("/models?scale=")).json == (await api.get("/models")).json
    other = await api.get("/models?other=7")
    assert (other.status, other.json["code"]) == (400, "bad_request")


@pytest.mark.parametrize("query", ["scale=0", "scale=x", "scale=2.5", "scale=2&scale=3"])
async def test_a_scale_that_is_none_is_refused(api: Api, query: str) -> None:
    answer = await api.get(f"/models?{query}")
    assert (answer.status, answer.json["code"]) == (400, "bad_request")
    assert answer.json["error"].startswith("scale is ")


async def test_health_tells_status_version_and_time(api: Api) -> None:
    told = (await api.get("/health")).json
    assert list(told)[:3] == ["status", "version", "time"]
    assert (told["status"], told["version"]) == ("ok", __version__)
    assert abs(told["time"] - time.time()) < 5
    assert isinstance(told["time"], int)


@pytest.mark.parametrize("path", ["/health", "/models", "/docs", "/openapi.yaml"])
async def test_what_can_be_got_has_a_head(api: Api, path: str) -> None:
    answer = await api.call("HEAD", path)
    assert answer.status == 200
    assert answer.body == b""
    assert int(answer.headers["content-length"]) > 0
