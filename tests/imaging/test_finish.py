"""Results: sizes, formats, metadata, transparency, and what cannot be written."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from testkit import pictures as makers
from testkit.eye import seen
from testkit.imaging import enlarged, finished
from testkit.pictures import encoded, exif
from testkit.zoo import CARD, COLOUR, in_srgb
from upscaled import serial
from upscaled.errors import EngineError, UnusablePictureError
from upscaled.formats import result_format
from upscaled.imaging import (
    NOTHING_WRITTEN,
    Band,
    FinishOptions,
    Imaging,
    Prepared,
    UnlikeError,
)
from upscaled.imaging.resample import resample
from upscaled.pictures import Size

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def _prepared(data: bytes, imaging: Imaging, folder: Path) -> Prepared:
    (folder / "upload").write_bytes(data)
    return await imaging.prepare(folder / "upload", folder)


async def test_exif_is_corrected_and_its_thumbnail_dropped(
    imaging: Imaging, tmp_path: Path
) -> None:
    data = encoded(CARD, "JPEG", exif=exif(6, thumbnail=True))
    with Image.open(io.BytesIO(data)) as original:
        assert original.getexif().get_ifd(ExifTags.IFD.IFD1)
    prepared = await _prepared(data, imaging, tmp_path)
    native = enlarged(prepared)
    for kind in ("jpg", "png", "webp"):
        done = await finished(imaging, prepared, native, tmp_path, FinishOptions(kind, native.size))
        with Image.open(done.path) as result:
            tags = result.getexif()
            details = tags.get_ifd(ExifTags.IFD.Exif)
            assert not tags.get_ifd(ExifTags.IFD.IFD1)
        assert tags[0x0112] == 1
        assert (tags[0x0100], tags[0x0101]) == (88, 120)
        assert (details[0xA002], details[0xA003]) == (88, 120)
        assert (tags[0x010F], details[0x9003]) == ("Maker", "2024:05:06 07:08:09")


async def test_without_metadata_pixels_become_srgb_and_nothing_else_is_left(
    imaging: Imaging, tmp_path: Path
) -> None:
    data = encoded(CARD, "JPEG", exif=exif(1), icc_profile=makers.WIDE)
    prepared = await _prepared(data, imaging, tmp_path)
    native = enlarged(prepared)
    options = FinishOptions("jpg", native.size, keep_metadata=False)
    done = await finished(imaging, prepared, native, tmp_path, options)
    with Image.open(done.path) as result:
        assert not {"exif", "icc_profile"} & set(result.info)
    assert {"EXIF, as was asked for", "ICC profile, as was asked for"} <= set(done.lost)


@pytest.mark.parametrize("size", [Size(60, 44), Size(97, 71), Size(1, 1), Size(300, 10)])
async def test_the_result_has_the_promised_size(
    size: Size, imaging: Imaging, tmp_path: Path
) -> None:
    prepared = await _prepared(encoded(CARD, "PNG"), imaging, tmp_path)
    done = await finished(
        imaging, prepared, enlarged(prepared), tmp_path, FinishOptions("png", size)
    )
    with Image.open(done.path) as result:
        assert result.size == (size.width, size.height)
    content = done.path.read_bytes()
    assert done.file_size_bytes == len(content)
    assert done.sha256 == hashlib.sha256(content).hexdigest()


async def test_transparency_is_laid_on_the_background_for_jpeg(
    imaging: Imaging, tmp_path: Path
) -> None:
    picture = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    prepared = await _prepared(encoded(picture, "PNG"), imaging, tmp_path)
    native = enlarged(prepared)
    options = FinishOptions("jpg", native.size, background=(10, 200, 30))
    done = await finished(imaging, prepared, native, tmp_path, options)
    colour, _ = seen(done.path)
    assert np.abs(colour.astype(int) - (10, 200, 30)).max() <= 2
    assert any("background" in phrase for phrase in done.lost)


async def test_colour_under_transparent_pixels_does_not_bleed(
    imaging: Imaging, tmp_path: Path
) -> None:
    pixels = np.zeros((48, 48, 4), np.uint8)
    pixels[12:36, 12:36] = (255, 255, 255, 255)  # white on transparent black
    prepared = await _prepared(encoded(Image.fromarray(pixels), "PNG"), imaging, tmp_path)
    native = enlarged(prepared, 4)
    done = await finished(imaging, prepared, native, tmp_path, FinishOptions("png", native.size))
    with Image.open(done.path) as result:
        made = np.asarray(result.convert("RGBA"))  # white alone is grey
    assert made[..., :3][made[..., 3] > 0].min() >= 254
    assert (made[60:130, 60:130, 3] == 255).all()
    assert (made[:40, :40, 3] == 0).all()


async def test_quality_and_lossless_are_heeded(imaging: Imaging, tmp_path: Path) -> None:
    prepared = await _prepared(encoded(CARD, "PNG"), imaging, tmp_path)
    native = enlarged(prepared, 4)
    for kind in ("jpg", "webp"):
        lengths = []
        for quality in (1, 30, 95, 100):
            options = FinishOptions(kind, native.size, quality=quality)
            done = await finished(imaging, prepared, native, tmp_path, options)
            lengths.append(done.file_size_bytes)
        assert lengths == sorted(lengths)
    options = FinishOptions("webp", native.size, lossless=True)
    done = await finished(imaging, prepared, native, tmp_path, options)
    assert seen(done.path)[0].tobytes() == native.path.read_bytes()


async def test_an_unlike_picture_leaves_no_result(imaging: Imaging, tmp_path: Path) -> None:
    prepared = await _prepared(encoded(CARD, "PNG"), imaging, tmp_path)
    native = enlarged(prepared)
    native.path.write_bytes(bytes(native.total_bytes))
    with pytest.raises(UnlikeError) as caught:
        await finished(imaging, prepared, native, tmp_path, FinishOptions("png", native.size))
    assert caught.value.retryable
    assert not list(tmp_path.glob("result*"))


async def test_prepared_survives_as_json(imaging: Imaging, tmp_path: Path) -> None:
    data = encoded(CARD.convert("RGBA"), "PNG", exif=exif(3), icc_profile=makers.WIDE)
    prepared = await _prepared(data, imaging, tmp_path)
    assert serial.convert(serial.plain(prepared), Prepared) == prepared


async def test_strips_resample_like_the_whole() -> None:
    whole = Image.fromarray(np.tile(COLOUR, (5, 3, 1)))
    old = Size(*whole.size)

    def part(top: int, bottom: int) -> Image.Image:
        return whole.crop((0, top, whole.width, bottom))

    for size in (Size(90, 110), Size(400, 777), Size(180, 55)):
        wanted = np.asarray(whole.resize((size.width, size.height), Image.Resampling.LANCZOS))
        parts = [
            resample(part, old, size, top, min(top + 37, size.height))
            for top in range(0, size.height, 37)
        ]
        assert np.abs(np.concatenate(parts).astype(int) - wanted).max() <= 1


async def test_what_a_format_can_hold_is_known() -> None:
    assert result_format("webp").largest_side == 16_383
    assert result_format("png").largest_side > result_format("jpg").largest_side > 65_000


async def test_the_background_is_the_colour_that_was_named_also_in_a_wide_profile(
    imaging: Imaging, tmp_path: Path
) -> None:
    upload = tmp_path / "upload"
    clear = Image.new("RGBA", (24, 24), (0, 0, 0, 0))
    clear.putpixel((0, 0), (255, 250, 200, 255))
    clear.save(upload, "PNG", icc_profile=makers.WIDE)
    prepared = await imaging.prepare(upload, tmp_path)
    native = enlarged(prepared)
    options = FinishOptions("jpg", native.size, background=(200, 40, 40))
    done = await finished(imaging, prepared, native, tmp_path, options)
    with Image.open(done.path) as result:
        assert result.info["icc_profile"] == makers.WIDE
        shown = in_srgb(result, makers.WIDE)
    middle = shown[-20:, -20:].reshape(-1, 3).mean(axis=0)
    assert np.abs(middle - (200, 40, 40)).max() < 3


async def test_samples_that_are_no_numbers_are_refused(imaging: Imaging, tmp_path: Path) -> None:
    values = np.full((12, 12), 0.5, np.float32)
    values[6, 6] = np.nan
    (tmp_path / "upload").write_bytes(encoded(Image.fromarray(values), "TIFF"))
    with pytest.raises(UnusablePictureError, match="samples that are not numbers"):
        await imaging.prepare(tmp_path / "upload", tmp_path)


def _tall(with_alpha: bool) -> Image.Image:
    """Return a picture of many small bands: 72 × 500 pixels, RGB or RGBA."""
    picture = Image.fromarray(np.tile(np.asarray(CARD.convert("RGB").resize((72, 100))), (5, 1, 1)))
    if with_alpha:
        fade = np.linspace(0, 255, 500).astype(np.uint8)[:, None].repeat(72, axis=1)
        picture.putalpha(Image.fromarray(fade))
    return picture


@pytest.mark.parametrize("kind", ["png", "jpg", "webp"])
@pytest.mark.parametrize("with_alpha", [False, True])
@pytest.mark.parametrize("size", [Size(144, 1000), Size(101, 701), Size(200, 1389)])
async def test_bands_make_the_picture_that_the_whole_makes(
    kind: str, with_alpha: bool, size: Size, imaging: Imaging, tmp_path: Path
) -> None:
    data = encoded(_tall(with_alpha), "PNG", icc_profile=makers.WIDE)
    prepared = await _prepared(data, imaging, tmp_path)
    native = enlarged(prepared)
    options = FinishOptions(kind, size, background=(200, 40, 40))
    whole = await finished(imaging, prepared, native, tmp_path, options)
    with Image.open(whole.path) as image:
        wanted, profile = np.asarray(image), image.info.get("icc_profile")
    whole.path.unlink()
    written = NOTHING_WRITTEN
    for top, bottom in ((0, 64), (64, 100), (100, 131), (131, 400), (400, 500)):
        assert written.finished is None
        written = await imaging.finish(
            prepared, native, tmp_path, options, Band(top, bottom), written
        )
        assert written.source_rows == bottom
    assert written.finished is not None
    assert written.finished.sha256 == hashlib.sha256(written.finished.path.read_bytes()).hexdigest()
    assert (written.finished.kept, written.finished.lost) == (whole.kept, whole.lost)
    with Image.open(written.finished.path) as image:
        made = np.asarray(image)
        assert image.info.get("icc_profile") == profile == makers.WIDE
    assert made.shape == wanted.shape
    difference = np.abs(made.astype(int) - wanted)
    if size == native.size:
        assert not difference.any()
    else:  # sums of a resample may round differently in strips; lossy coding makes more of it
        assert difference.max() <= (3 if kind == "png" else 12)
        assert difference.mean() < (0.1 if kind == "png" else 0.5)


async def test_what_an_attempt_left_behind_the_last_band_is_overwritten(
    imaging: Imaging, tmp_path: Path
) -> None:
    prepared = await _prepared(encoded(_tall(False), "PNG"), imaging, tmp_path)
    native = enlarged(prepared)
    options = FinishOptions("png", native.size)
    first = await imaging.finish(prepared, native, tmp_path, options, Band(0, 100))
    with (tmp_path / "result.part").open("ab") as file:
        file.write(b"half a band")
    last = await imaging.finish(prepared, native, tmp_path, options, Band(100, 500), first)
    assert last.finished is not None
    assert seen(last.finished.path)[0].tobytes() == native.path.read_bytes()


async def test_a_result_that_changed_on_the_disk_is_not_handed_out(
    imaging: Imaging, tmp_path: Path
) -> None:
    prepared = await _prepared(encoded(_tall(False), "PNG"), imaging, tmp_path)
    native = enlarged(prepared)
    options = FinishOptions("png", native.size)
    first = await imaging.finish(prepared, native, tmp_path, options, Band(0, 100))
    with (tmp_path / "result.part").open("r+b") as file:
        file.seek(100)
        file.write(b"rot")
    with pytest.raises(EngineError, match="differs from what was written"):
        await imaging.finish(prepared, native, tmp_path, options, Band(100, 500), first)
    assert not (tmp_path / "result.png").exists()


async def test_bands_below_a_bad_one_are_not_written(imaging: Imaging, tmp_path: Path) -> None:
    prepared = await _prepared(encoded(_tall(False), "PNG"), imaging, tmp_path)
    native = enlarged(prepared)
    with native.path.open("r+b") as file:
        file.seek(250 * native.row_bytes)
        file.write(bytes(60 * native.row_bytes))
    options = FinishOptions("png", native.size)
    first = await imaging.finish(prepared, native, tmp_path, options, Band(0, 100))
    with pytest.raises(UnlikeError):
        await imaging.finish(prepared, native, tmp_path, options, Band(100, 200), first)
    assert (tmp_path / "result.part").stat().st_size == first.length
