"""Which models are quick here is told before somebody waits for a slow one."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

from testkit import checkpoints
from testkit.running import Api, Server, a_picture
from upscaled.models.conversion.importing import import_model
from upscaled.models.conversion.request import ImportRequest

SLOW, FAST = "realesrgan-x4plus", "realesr-animevideov3"


async def test_the_list_of_models_says_how_quick_each_network_is(api: Api) -> None:
    models = {model["name"]: model for model in (await api.get("/models")).json["models"]}
    (slow,) = models[SLOW]["speed"]
    assert slow["scale"] == 4
    fast = {speed["scale"]: speed for speed in models[FAST]["speed"]}
    assert sorted(fast) == [2, 3, 4]
    assert slow["seconds_per_megapixel"] > 5 * fast[4]["seconds_per_megapixel"] > 0
    assert set(slow) == {"scale", "seconds_per_megapixel", "measured"}


async def test_a_speed_is_measured_once_the_network_has_run(api: Api, server: Server) -> None:
    for _ in range(2):  # the first time counts as loading too
        job = await api.accepted(a_picture(64, 64), model_name=FAST, scale="2")
        await server.ended(job)
    models = {model["name"]: model for model in (await api.get("/models")).json["models"]}
    measured = {speed["scale"]: speed["measured"] for speed in models[FAST]["speed"]}
    assert measured[2]


async def test_an_estimate_and_a_submission_name_a_much_quicker_model(api: Api) -> None:
    wanted = {"input_width": "2000", "input_height": "1500", "model_name": SLOW}
    told = (await api.post("/estimate", params={**wanted, "scale": "4"})).json
    assert told["quicker"]["model_name"] == FAST
    assert told["quicker"]["seconds"] * 3 <= told["seconds"]
    quick = (await api.post("/estimate", params={**wanted, "model_name": FAST})).json
    assert "quicker" not in quick
    accepted = (await api.upscale(a_picture(1200, 900), {"model_name": SLOW})).json
    assert accepted["quicker"]["model_name"] == FAST
    await api.post(f"/cancel/{accepted['job_id']}")
    small = (await api.upscale(a_picture(16, 16), {"model_name": SLOW})).json
    assert "quicker" not in small
    await api.post(f"/cancel/{small['job_id']}")


async def test_the_quicker_model_is_one_for_the_same_kind_of_pictures(
    serve: Callable[..., Server], models_dir: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models_dir, folder)
    # All are quick. What each is for tells which one is named; the names come first and last.
    for name, description in (("a", None), ("b", "For maps"), ("z", "Photos, small and quick")):
        checkpoint = checkpoints.compact("prelu", features=64 if name == "z" else 8, scale=4)
        published = tmp_path / f"{name}.pth"
        published.write_bytes(checkpoints.pth(checkpoint))
        await import_model(ImportRequest(published, description=description), folder)
    wanted = {"input_width": "2000", "input_height": "1500", "scale": "4"}
    server = serve(upscaler__models_path=str(folder))
    async with Api(server) as api:

        async def named(model: str) -> str:
            told = (await api.post("/estimate", params={**wanted, "model_name": model})).json
            return str(told["quicker"]["model_name"])

        assert await named(SLOW) == "z"
        assert await named("realesrgan-x4plus-anime") == FAST
