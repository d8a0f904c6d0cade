"""Which models are quick here is told before somebody waits for a slow one."""

from __future__ import annotations

from testkit.running import Api, Server, a_picture

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
