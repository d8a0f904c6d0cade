"""Rows that are decoded a strip at a time are those of the picture decoded whole."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from testkit.paths import DATA
from upscaled.errors import UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.view import jpeg_strips, png_strips
from upscaled.imaging.view.levels import TILE, levels_of, tile_count
from upscaled.imaging.view.pyramid import write_pyramid
from upscaled.imaging.view.rows import WholeRows, open_rows
from upscaled.imaging.view.tile_file import TileFileError, read_tile
from upscaled.pictures import Size


@pytest.fixture
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a strip have few rows, so that small pictures have several."""
    monkeypatch.setattr(png_strips, "_STRIP_BYTES", 40_000)
    monkeypatch.setattr(jpeg_strips, "_STRIP_BYTES", 40_000)


def photo(mode: str = "RGB") -> Image.Image:
    """Return a photo with transparency where the mode has any."""
    with Image.open(DATA / "coffee.jpg") as image:
        made = image.resize((301, 233)).convert(mode)
    if "A" in mode:
        made.putalpha(Image.linear_gradient("L").resize(made.size))
    return made


def rows_of(path: Path, height: int = 100) -> tuple[np.ndarray, bool]:
    """Return all rows of a picture, and whether it was decoded whole."""
    with open_rows(path, INPUT_NAMES, 10**8) as rows:
        strips = list(rows.strips(height))
        assert all(strip.shape[0] == height for strip in strips[:-1])
        return np.concatenate(strips), isinstance(rows, WholeRows)


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_a_png_in_strips(tmp_path: Path, mode: str) -> None:
    path, image = tmp_path / "a.png", photo(mode)
    image.save(path)
    found, decoded_whole = rows_of(path)
    assert not decoded_whole
    assert np.array_equal(found, np.asarray(image.convert("RGBA" if "A" in mode else "RGB")))


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_of_ours_in_strips(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.jpg"
    photo(mode).save(path, subsampling="4:4:4", restart_marker_rows=1)
    found, decoded_whole = rows_of(path)
    assert not decoded_whole
    with Image.open(path) as image:
        assert np.array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize(
    ("suffix", "settings"),
    [
        ("jpg", {}),
        ("jpg", {"progressive": True, "restart_marker_rows": 1}),
        ("jpg", {"subsampling": "4:2:0", "restart_marker_rows": 1}),
        ("webp", {"lossless": True}),
        ("tiff", {}),
    ],
)
def test_others_are_decoded_whole(tmp_path: Path, suffix: str, settings: dict[str, object]) -> None:
    path = tmp_path / f"a.{suffix}"
    photo().save(path, **settings)  # type: ignore[arg-type]
    found, decoded_whole = rows_of(path)
    assert decoded_whole
    with Image.open(path) as image:
        assert np.array_equal(found, np.asarray(image.convert("RGB")))


@pytest.mark.usefixtures("small_strips")
def test_profiles_are_converted_to_srgb(tmp_path: Path) -> None:
    """A Lab profile tells what the colours are; here a PNG says its RGB is a swapped sRGB."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    plain, tagged = tmp_path / "plain.png", tmp_path / "tagged.png"
    photo().save(plain)
    photo().save(tagged, icc_profile=profile)
    difference = rows_of(plain)[0].astype(int) - rows_of(tagged)[0]
    assert np.abs(difference).max() <= 1


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_a_picture_that_breaks_off_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    settings = {"restart_marker_rows": 1, "subsampling": "4:4:4"} if suffix == "jpg" else {}
    photo().save(path, **settings)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnusablePictureError):
        rows_of(path)


def test_levels_end_with_a_single_tile() -> None:
    levels = levels_of(Size(1100, 700))
    assert [(level.size.width, level.size.height) for level in levels] == [
        (1100, 700),
        (550, 350),
        (275, 175),
    ]
    assert tile_count(Size(1100, 700)) == 3 * 2 + 2 + 1
    assert len(levels_of(Size(512, 512))) == 1


def test_a_pyramid_has_every_tile_of_the_right_size(tmp_path: Path) -> None:
    path, size = tmp_path / "a.png", Size(1100, 1300)
    photo("RGBA").resize((size.width, size.height)).save(path)
    tiles = tmp_path / "tiles"
    with open_rows(path, INPUT_NAMES, 10**8) as rows:
        write_pyramid(rows, tiles, threads=2)
    count = tile_count(size)
    for level in levels_of(size):
        for row in range(level.rows):
            for column in range(level.columns):
                number = level.first + row * level.columns + column
                content, _ = read_tile(tiles, number, count)
                with Image.open(io.BytesIO(content)) as tile:
                    assert tile.size == (
                        min(TILE, level.size.width - column * TILE),
                        min(TILE, level.size.height - row * TILE),
                    )


@pytest.mark.parametrize("index", [b"", b"\xff" * 12, b"\0" * 12, bytes(8) + b"\x04\0\0\0"])
def test_an_index_is_not_trusted(tmp_path: Path, index: bytes) -> None:
    path = tmp_path / "tiles"
    path.write_bytes(b"evil" + index)
    with pytest.raises(TileFileError):
        read_tile(path, 0, 1)
