"""From outside: ``precision=fast`` runs the deepest network in 16 bits, ``exact`` does not."""

from __future__ import annotations

import asyncio
import io
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import pytest
from PIL import Image

from testkit.networks import Pixels, photo, psnr
from testkit.photos import png
from testkit.server_process import server_process
from testkit.submissions import completed, only_network
from upscaled.engines.builtin.cpu_library import CpuLibrary, possible_libraries

STEM = "realesrgan-x4plus"


@pytest.fixture
def models(models_dir: Path, tmp_path: Path) -> Path:
    return only_network(models_dir, STEM, tmp_path / "models")


async def test_fast_and_exact_pictures_are_made_in_their_own_precision(
    models: Path, tmp_path: Path
) -> None:
    content = png(photo(40, 30))
    # Nothing is measured yet: jobs come before measurements.
    settings: dict[str, object] = {
        "upscaler.calibrate": True,
        "upscaler.default_model": STEM,
        "upscaler.default_scale": 4,
    }
    async with (
        server_process(tmp_path / "server", models, settings) as server,
        aiohttp.ClientSession() as session,
    ):

        async def made(precision: str) -> tuple[Pixels, dict[str, Any]]:
            fields = {"format": "png", "precision": precision}
            job_id, receipt = await completed(server, content, fields)
            async with session.get(f"{server.url}/download/{job_id}") as answer:
                with Image.open(io.BytesIO(await answer.read())) as picture:
                    return np.asarray(picture.convert("RGB")), receipt["engine"]

        exact, exactly = await made("exact")
        fast, quickly = await made("fast")
        assert (exactly["precision"], quickly["precision"]) == ("exact", "fast")
        assert not exactly["library"].endswith("in bfloat16")
        assert not quickly["measured"]
        if CpuLibrary.OPENVINO_BF16 in await asyncio.to_thread(possible_libraries):
            assert quickly["library"].endswith("in bfloat16")
            assert 40 < psnr(fast, exact) < 70
        else:
            assert quickly["library"] == exactly["library"]
            assert np.array_equal(fast, exact)

        form = aiohttp.FormData({"precision": "faster"})
        form.add_field("image", content, filename="a.png", content_type="image/png")
        async with session.post(server.url + "/upscale", data=form) as answer:
            assert answer.status == 400
            sentence = "precision is 'faster'; it must be exact or fast."
            assert sentence in await answer.text()
