"""The receipt: what went in, what came out, and how."""

from __future__ import annotations

import hashlib

from testkit.running import FAST_MODEL, Api, Server, a_picture


async def test_a_receipt_tells_what_happened_and_outlives_the_file(
    api: Api, server: Server
) -> None:
    picture = a_picture(20, 12)
    answer = await api.upscale(picture, {"scale": "3", "model_name": FAST_MODEL})
    job_id = answer.json["job_id"]
    early = await api.get(f"/receipt/{job_id}")
    if early.status == 409:  # the job may be done already
        assert "only a completed job has a receipt" in early.json["error"]
    await server.ended(job_id)
    result = await api.get(f"/download/{job_id}")
    receipt = (await api.get(f"/receipt/{job_id}")).json
    assert receipt["job_id"] == job_id
    assert receipt["input"]["sha256"] == hashlib.sha256(picture).hexdigest()
    assert receipt["output"]["sha256"] == hashlib.sha256(result.body).hexdigest()
    assert receipt["output"]["file_size_bytes"] == len(result.body)
    assert (receipt["output"]["width"], receipt["output"]["height"]) == (60, 36)
    assert receipt["model"]["native_scale"] == 3
    assert receipt["engine"] == {
        "name": "builtin",
        "binary_sha256": None,
        "library": receipt["engine"]["library"],
        "device": "cpu",
        "device_name": "CPU",
        "devices": ["cpu"],
        "tile_size": receipt["engine"]["tile_size"],
        "tiles_at_once": receipt["engine"]["tiles_at_once"],
        "threads_per_tile": receipt["engine"]["threads_per_tile"],
        "measured": False,
        "tta": False,
        "precision": "exact",
    }
    assert receipt["engine"]["tiles_at_once"] > 0
    assert receipt["engine"]["threads_per_tile"] > 0
    assert receipt["engine"]["tile_size"] > 0
    assert receipt["engine"]["library"].startswith(("ncnn 1", "OpenVINO 2"))
    # Where the same machine does the job, its picture is decoded on arrival.
    stages = {"wait", "upscale", "finish"}
    if server.config.cluster.used:
        stages |= {"prepare"}
    assert set(receipt["seconds"]) == stages


async def test_a_cancelled_job_has_no_receipt(api: Api) -> None:
    answer = await api.upscale(
        a_picture(400, 400), {"scale": "4", "model_name": "realesrgan-x4plus"}
    )
    job_id = answer.json["job_id"]
    await api.call("POST", f"/cancel/{job_id}")
    refused = await api.get(f"/receipt/{job_id}")
    assert (refused.status, refused.json["code"]) == (409, "wrong_state")
    assert refused.json["error"] == "The job is cancelled; only a completed job has a receipt."
