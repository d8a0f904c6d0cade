"""The catalog, with real, unusual and broken models."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from testkit.networks import write_network, write_repeater
from upscaled.engines.builtin.protocol import Findings, NetworkFiles
from upscaled.errors import UnknownModelError
from upscaled.models import inspector
from upscaled.models.catalog import Model, ModelCatalog
from upscaled.models.inspector import UnusableModelError


class Counting:
    """Finds the same in every network, and counts how often it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def __call__(self, files: NetworkFiles) -> Findings:
        self.asked.append(files.param.stem)
        return Findings(native_scale=4, bytes_per_pixel=1000)


async def rejections(folder: Path) -> dict[str, str]:
    registry = ModelCatalog(folder)
    await registry.rescan()
    assert registry.models == ()
    return {item.name: item.reason for item in registry.rejected}


async def test_the_official_models_are_offered_with_their_measured_scales(
    models_dir: Path,
) -> None:
    registry = ModelCatalog(models_dir)
    await registry.rescan()
    assert registry.rejected == ()
    assert {model.name: model.supported_scales for model in registry.models} == {
        "realesr-animevideov3": (2, 3, 4),
        "realesrgan-x4plus": (4,),
        "realesrgan-x4plus-anime": (4,),
    }
    video = registry.get("realesr-animevideov3")
    assert video.description == "Optimized for anime/animation"
    assert video.files_for(3).param == models_dir / "realesr-animevideov3-x3.param"
    photo = registry.get("realesrgan-x4plus")
    assert photo.description == "General purpose, high quality"
    files = photo.files_for(2)
    assert (files.native_scale, files.input_blob, files.output_blob) == (4, "data", "output")
    # The large network takes some 60 kB a pixel, the small one some 3.
    assert 40_000 < files.bytes_per_pixel < 140_000
    assert 1_500 < video.files_for(4).bytes_per_pixel < 12_000


async def test_other_peoples_blob_names_and_line_ends_are_found_out(
    models_dir: Path, tmp_path: Path
) -> None:
    text = (models_dir / "realesr-animevideov3-x2.param").read_text("ascii")
    theirs = text.replace(" data", " in0").replace(" output", " out0").replace("\n", "\r\n")
    (tmp_path / "theirs.param").write_bytes(theirs.encode("ascii"))
    shutil.copy(models_dir / "realesr-animevideov3-x2.bin", tmp_path / "theirs.bin")
    registry = ModelCatalog(tmp_path)
    await registry.rescan()
    files = registry.get("theirs").files_for(2)
    assert (files.native_scale, files.input_blob, files.output_blob) == (2, "in0", "out0")


async def test_the_scale_is_measured_and_not_read_off_the_name(tmp_path: Path) -> None:
    write_repeater(tmp_path, "liar-x2", 3)
    registry = ModelCatalog(tmp_path)
    await registry.rescan()
    assert registry.get("liar").supported_scales == (3,)


async def test_a_lone_ending_is_stripped_and_the_whole_name_works_too(tmp_path: Path) -> None:
    write_repeater(tmp_path, "sharp-x4", 4)
    registry = ModelCatalog(tmp_path)
    await registry.rescan()
    assert [model.name for model in registry.models] == ["sharp"]
    assert registry.get("sharp-x4") is registry.get("sharp")


async def test_two_siblings_of_one_scale_are_not_both_offered(tmp_path: Path) -> None:
    write_repeater(tmp_path, "twin-x2", 2)
    write_repeater(tmp_path, "twin-x4", 2)
    registry = ModelCatalog(tmp_path)
    await registry.rescan()
    assert registry.get("twin").files_for(2).stem == "twin-x2"
    assert [item.name for item in registry.rejected] == ["twin-x4.param"]


async def test_an_unknown_name_is_answered_with_those_there_are(tmp_path: Path) -> None:
    registry = ModelCatalog(tmp_path)
    await registry.rescan()
    with pytest.raises(UnknownModelError, match="upscaled models install"):
        registry.get("sharp")
    write_repeater(tmp_path, "soft", 2)
    await registry.rescan()
    with pytest.raises(UnknownModelError, match="'sharp'; installed are: soft"):
        registry.get("sharp")


async def test_a_folder_that_is_not_there_offers_nothing(tmp_path: Path) -> None:
    assert await rejections(tmp_path / "nowhere") == {}


async def test_half_pairs_are_left_out_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_repeater(tmp_path, "one", 2).bin.unlink()
    write_repeater(tmp_path, "two", 2).param.unlink()
    registry = ModelCatalog(tmp_path)
    with caplog.at_level(logging.WARNING):
        await registry.rescan()
        os.utime(tmp_path / "two.bin", ns=(1, 1))
        await registry.rescan()
    assert {item.name: item.reason for item in registry.rejected} == {
        "one.param": "one.param has no matching one.bin beside it.",
        "two.bin": "two.bin has no matching two.param beside it.",
    }
    assert len(caplog.records) == 2


async def test_truncated_weights_are_left_out(models_dir: Path, tmp_path: Path) -> None:
    for suffix in (".param", ".bin"):
        shutil.copy(models_dir / f"realesr-animevideov3-x2{suffix}", tmp_path / f"cut{suffix}")
    os.truncate(tmp_path / "cut.bin", 1_000_000)
    assert "too short" in (await rejections(tmp_path))["cut.param"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\xff\xfe\x00binary", "not a text file"),
        (b"", "not an ncnn .param"),
        (b"hello\nworld\nagain\n", "not an ncnn .param"),
        (b"7767517\n2 2\nInput a 0 1 data\n", "2 layers are promised, 1 are there"),
        (b"7767517\n1 x\nInput a zero 1 data\n", "is invalid"),
        (b"7767517\n1 1\nInput a 0 1\n", "is invalid"),
        (b"7767517\n2 2\nInput a 0 1 data\nNonsense b 1 1 data out\n", "not an ncnn network"),
    ],
)
async def test_what_is_no_network_is_left_out(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "odd.param").write_bytes(content)
    (tmp_path / "odd.bin").write_bytes(b"\0" * 64)
    assert reason in (await rejections(tmp_path))["odd.param"]


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        (["Interp up 1 1 data output 0=1 1=17.0 2=17.0"], "scale 17, not 1 to 16"),
        (["Interp down 1 1 data output 0=1 1=0.5 2=0.5"], "not a whole multiple"),
        (["Interp wide 1 1 data output 0=1 1=1.0 2=2.0"], "not a whole multiple"),
        (
            ["Interp fixed 1 1 data output 0=1 3=88 4=66"],
            "64×64 into 66×88 pixels, not a whole multiple",
        ),
        (["Split s 1 2 data a b", "Concat c 2 1 a b output 0=0"], "not RGB"),
        (["Flatten f 1 1 data output"], "not RGB"),
        (["UnaryOp log 1 1 data output 0=8"], "values that are not numbers"),
    ],
)
async def test_what_enlarges_no_pictures_is_left_out(
    tmp_path: Path, layers: list[str], reason: str
) -> None:
    write_network(tmp_path, "odd", *layers)
    assert reason in (await rejections(tmp_path))["odd.param"]


async def test_a_network_that_breaks_the_library_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A stand-in: which damage crashes the library and which it notices is a matter of luck.
    monkeypatch.setattr(inspector, "WORKER_MODULE", "testkit.workers.crashing")
    write_repeater(tmp_path, "bomb", 2)
    registry = ModelCatalog(tmp_path)
    await registry.rescan()
    assert registry.models == ()
    assert [item.name for item in registry.rejected] == ["bomb.param"]
    assert "breaks the ncnn library: the model inspection process ended with signal 11" in (
        registry.rejected[0].reason
    )


async def test_a_name_that_could_not_be_asked_for_is_left_out(tmp_path: Path) -> None:
    write_repeater(tmp_path, "schön", 2)
    assert "rename both files" in (await rejections(tmp_path))["schön.param"]


async def test_only_new_and_changed_files_are_measured(tmp_path: Path) -> None:
    inspect = Counting()
    registry = ModelCatalog(tmp_path, inspect=inspect)
    write_repeater(tmp_path, "one", 4)
    for _ in range(3):
        await registry.rescan()
    assert inspect.asked == ["one"]
    write_repeater(tmp_path, "two", 4)
    await registry.rescan()
    assert inspect.asked == ["one", "two"]
    os.utime(tmp_path / "one.bin", ns=(1, 1))
    await registry.rescan()
    assert inspect.asked == ["one", "two", "one"]
    (tmp_path / "two.param").unlink()
    (tmp_path / "two.bin").unlink()
    await registry.rescan()
    assert [model.name for model in registry.models] == ["one"]


async def test_measurements_outlive_a_restart(tmp_path: Path) -> None:
    folder, cache = tmp_path / "models", tmp_path / "data" / "models.json"
    folder.mkdir()
    write_repeater(folder, "good", 2)
    write_repeater(folder, "odd", 17)
    first = ModelCatalog(folder, cache_file=cache)
    await first.rescan()
    inspect = Counting()
    second = ModelCatalog(folder, inspect=inspect, cache_file=cache)
    await second.rescan()
    assert inspect.asked == []
    assert second.models == first.models
    assert second.rejected == first.rejected
    assert len(second.rejected) == 1
    assert [path.name for path in cache.parent.iterdir()] == ["models.json"]


@pytest.mark.parametrize("content", ["", "[]", '{"format":1,"outcomes":{"a":{"native_scale":0}}}'])
async def test_a_damaged_cache_is_measured_over(tmp_path: Path, content: str) -> None:
    cache = tmp_path / "cache.json"
    cache.write_text(content)
    write_repeater(tmp_path, "one", 4)
    inspect = Counting()
    registry = ModelCatalog(tmp_path, inspect=inspect, cache_file=cache)
    await registry.rescan()
    assert inspect.asked == ["one"]
    again = Counting()
    await ModelCatalog(tmp_path, inspect=again, cache_file=cache).rescan()
    assert again.asked == []


def test_the_network_for_a_scale_is_its_own_else_a_larger_one(tmp_path: Path) -> None:
    files = {scale: write_repeater(tmp_path, f"n{scale}", scale) for scale in (2, 4)}
    model = Model("n", "", files)
    chosen = [model.files_for(scale).native_scale for scale in (1, 2, 3, 4, 8)]
    assert chosen == [2, 2, 4, 4, 4]


async def test_a_model_that_failed_for_a_passing_reason_is_tried_again(tmp_path: Path) -> None:
    write_repeater(tmp_path, "late", 2)
    calls: list[NetworkFiles] = []

    async def busy_at_first(files: NetworkFiles) -> Findings:
        calls.append(files)
        if len(calls) == 1:
            raise UnusableModelError("The machine was busy.", lasting=False)
        return Findings(native_scale=2, bytes_per_pixel=100)

    registry = ModelCatalog(tmp_path, inspect=busy_at_first)
    await registry.rescan()
    await registry.rescan()
    assert (len(calls), registry.models) == (1, ())
    registry._again_at = 0.0
    await registry.rescan()
    assert [model.name for model in registry.models] == ["late"]
