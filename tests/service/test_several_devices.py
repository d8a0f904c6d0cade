"""A service with two devices of one model: both do the bands of one picture."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from PIL import Image

from testkit import parts
from testkit.paths import DATA
from testkit.services import make_config, running, submit
from upscaled.service.service import Service

FIELDS = {"tile_size": "32", "format": "png"}


async def upscaled(service: Service, picture: Path) -> tuple[bytes, list[str]]:
    """Return the result's bytes, and the devices that the receipt names."""
    job = await submit(service, picture, **FIELDS)
    done = await service.jobs.wait(job.id)
    result = await service.jobs.result(job.id)
    return await asyncio.to_thread(result.path.read_bytes), done.receipt["engine"]["devices"]


async def test_both_devices_do_bands_and_the_bytes_are_those_of_one(
    tmp_path: Path, models_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in parts.two_devices_env(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("upscaled.pipeline.bands._BAND_BYTES", 1)  # a band for every row of tiles
    tall = tmp_path / "tall.png"
    with Image.open(DATA / "coffee.jpg") as photo:
        photo.resize((64, 320)).save(tall)
    one = make_config(
        tmp_path / "one", models_dir, upscaler__gpu_ids="0", storage__result_cache_mb="0"
    )
    async with running(one) as service:
        wanted, devices = await upscaled(service, tall)
    assert devices == ["vulkan:0"]
    two = make_config(
        tmp_path / "two", models_dir, upscaler__gpu_ids="0,1", storage__result_cache_mb="0"
    )
    async with running(two) as service:
        made, devices = await upscaled(service, tall)
        assert made == wanted
        # The second device may have begun too late to help.
        made, devices = await upscaled(service, tall)
    assert made == wanted
    assert devices == ["vulkan:0", "vulkan:1"]
