from collections.abc import Callable

import aiohttp
import pytest

from testkit.contract import Answer
from testkit.running import FAST_MODEL, Api, Server, a_picture
from upscaled.cluster.runner import RemoteRunner


async def estimated(api: Api, picture: bytes | None = None, **fields: str) -> Answer:
    form = aiohttp.FormData(default_to_multipart=True)
    for name, value in {"model_name": FAST_MODEL, **fields}.items():
        form.add_field(name, value)
    if picture is not None:
        form.add_field("image", picture, filename="photo.png")
    return await api.post("/estimate", data=form)


async def test_a_size_alone_is_enough(api: Api) -> None:
    answer = await estimated(api, input_width="3000", input_height="2000", scale="2", format="jpg")
    assert answer.status == 200
    told = answer.json
    assert told["output_size"] == {"width": 6000, "height": 4000}
    assert told["format"] == "jpg"
    assert told["disk_bytes"] >= 3 * (3000 * 2000 + 2 * 6000 * 4000)
    smaller = (await estimated(api, input_width="300", input_height="200", scale="2")).json
    assert smaller["seconds"] < told["seconds"]
    assert smaller["memory_bytes"] < told["memory_bytes"]


async def test_a_picture_is_looked_at_and_not_kept(api: Api) -> None:
    answer = await estimated(api, a_picture(24, 16, "WEBP"), width="48")
    assert answer.json["input_size"] == {"width": 24, "height": 16}
    assert answer.json["output_size"] == {"width": 48, "height": 32}
    assert answer.json["format"] == "webp"
    assert not api.server.uploads()
    assert (await api.get("/health")).json["queue_length"] == 0


async def test_after_a_job_the_estimate_is_a_measured_one(api: Api) -> None:
    await api.completed()
    told = (await estimated(api, a_picture(), scale="2")).json
    assert told["measured"]
    assert told["wait_seconds"] == 0


async def test_it_compares_the_models_for_the_same_job(api: Api) -> None:
    listed = (await api.get("/models")).json["models"]
    size = {"input_width": "300", "input_height": "200"}
    for scale in (2, 4):
        told = (await estimated(api, None, **size, scale=str(scale))).json
        times = {time["model_name"]: time for time in told["models"]}
        assert set(times) == {
            model["name"] for model in listed if max(model["supported_scales"]) >= scale
        }
        assert times[told["model_name"]]["seconds"] == told["seconds"]
        for name, time in times.items():
            alone = (await estimated(api, None, **size, scale=str(scale), model_name=name)).json
            assert (time["seconds"], time["measured"]) == (alone["seconds"], alone["measured"])


@pytest.mark.parametrize(
    ("fields", "status", "words"),
    [
        ({}, 400, "Send the picture as image, or its size as input_width and input_height"),
        ({"input_width": "10"}, 400, "input_width and input_height"),
        ({"input_width": "0", "input_height": "9"}, 400, "The field input_width is '0'"),
        ({"input_width": "9", "input_height": "9", "scale": "7"}, 400, "scale"),
        ({"input_width": "900000", "input_height": "900000"}, 422, "takes at most 150"),
        ({"input_width": "9", "input_height": "9", "model_name": "nope"}, 400, "no model 'nope'"),
    ],
)
async def test_what_would_be_refused_is_refused(
    api: Api, fields: dict[str, str], status: int, words: str
) -> None:
    answer = await estimated(api, None, **fields)
    assert answer.status == status, answer
    assert words in answer.json["error"]


async def test_a_picture_and_a_size_contradict_each_other(api: Api) -> None:
    answer = await estimated(api, a_picture(), input_width="24", input_height="16")
    assert answer.status == 400
    assert "either image or input_width" in answer.json["error"]


async def test_a_job_that_waits_is_told_its_place_and_when_it_is_ready(api: Api) -> None:
    jobs = [await api.accepted(a_picture(300, 200 + number)) for number in range(6)]
    told = (await api.get(f"/status/{jobs[-1]}")).json
    assert told["status"] == "queued"
    assert told["queue_position"] >= 3
    assert told["eta_seconds"] > 0
    for job in jobs:
        await api.post(f"/cancel/{job}")


async def test_a_place_is_known_before_the_database_tells_a_server_of_its_own_job(
    serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RemoteRunner, "_note", lambda *_: None)
    async with Api(serve()) as api:
        jobs = [await api.accepted(a_picture(300, 200 + number)) for number in range(6)]
        told = (await api.get(f"/status/{jobs[-1]}")).json
        assert (told["status"], told["queue_position"] >= 3) == ("queued", True)
        for job in jobs:
            await api.post(f"/cancel/{job}")
