"""Faulty results are refused and correct ones are not, for pictures of every shape."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit.imaging import Pixels, stored
from testkit.paths import DATA
from upscaled.imaging.verify.thresholds import UnlikeError
from upscaled.imaging.verify.verify import verify_rows

PHOTO = DATA / "coffee.jpg"


def _photo(width: int, height: int) -> Pixels:
    with Image.open(PHOTO) as photo:
        return np.asarray(photo.convert("RGB").resize((width, height)))


def _enlarged(pixels: Pixels, scale: int) -> Pixels:
    image = Image.fromarray(pixels)
    size = (image.width * scale, image.height * scale)
    return np.array(image.resize(size, Image.Resampling.LANCZOS))


def _score(source: Pixels, native: Pixels, folder: Path, rows: tuple[int, int]) -> float:
    first, second = stored(source, folder / "source"), stored(native, folder / "native")
    return verify_rows(first, second, *rows)


def _black_tile(native: Pixels) -> None:
    native[64:128, 128:192] = 0


def _swapped_tiles(native: Pixels) -> None:
    kept = native[0:64, 0:64].copy()
    native[0:64, 0:64] = native[128:192, 192:256]
    native[128:192, 192:256] = kept


def _swapped_channels(native: Pixels) -> None:
    native[:] = native[..., ::-1].copy()


def _wrapped(native: Pixels) -> None:
    native += 64


def _shifted(native: Pixels) -> None:
    native[:, 8:] = native[:, :-8].copy()


def _half(native: Pixels) -> None:
    native[native.shape[0] // 2 :] = 0


def _black(native: Pixels) -> None:
    native[:] = 0


FAULTS = (_black_tile, _swapped_tiles, _swapped_channels, _wrapped, _shifted, _half, _black)


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__[1:])
def test_a_fault_is_caught(fault: Callable[[Pixels], None], scale: int, tmp_path: Path) -> None:
    source = _photo(150, 100)
    native = _enlarged(source, scale)
    assert _score(source, native, tmp_path, (0, 100)) > 0.5
    fault(native)
    with pytest.raises(UnlikeError, match="unlike its source"):
        _score(source, native, tmp_path, (0, 100))


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (2, 3), (17, 31), (16, 16), (33, 15)])
def test_any_shape_can_be_compared(size: tuple[int, int], tmp_path: Path) -> None:
    source = _photo(*size)
    assert _score(source, _enlarged(source, 4), tmp_path, (0, size[1])) > 0.3


def test_a_band_is_judged_by_its_own_rows(tmp_path: Path) -> None:
    source = _photo(150, 100)
    native = _enlarged(source, 2)
    native[120:] = 0
    assert _score(source, native, tmp_path, (0, 60)) > 0.5
    with pytest.raises(UnlikeError):
        _score(source, native, tmp_path, (60, 100))


def test_a_file_of_the_wrong_length_is_refused(tmp_path: Path) -> None:
    source = _photo(20, 10)
    first = stored(source, tmp_path / "source")
    second = stored(_enlarged(source, 2), tmp_path / "native")
    second.path.write_bytes(second.path.read_bytes()[:-1])
    with pytest.raises(UnlikeError, match="2399 bytes, 2400 were expected"):
        verify_rows(first, second, 0, 10)


@pytest.mark.parametrize("scale", [2, 4])
def test_a_picture_of_many_strips_is_judged_like_one_of_one(tmp_path: Path, scale: int) -> None:
    source = _photo(1500, 1000)
    native = _enlarged(source, scale)
    first, second = stored(source, tmp_path / "source"), stored(native, tmp_path / "native")
    score = verify_rows(first, second, 0, 1000, threads=3)
    assert score == verify_rows(first, second, 0, 1000) > 0.5
    place = np.s_[750 * scale : 782 * scale, 500 * scale : 532 * scale]
    native[place] = 255 - native[place]
    second = stored(native, tmp_path / "native")
    for threads in (1, 3):
        with pytest.raises(UnlikeError, match=r"x (49|50|51)\d, y 7[45678]\d"):
            verify_rows(first, second, 0, 1000, threads=threads)


@pytest.mark.parametrize(("scale", "at_once"), [(2, 1), (3, 2), (4, 4)])
def test_no_more_strips_are_compared_at_once_than_memory_allows(
    scale: int, at_once: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workers = [1]

    class Pool(ThreadPoolExecutor):
        def __init__(self, count: int) -> None:
            workers.append(count)
            super().__init__(count)

    monkeypatch.setattr("upscaled.imaging.verify.verify.ThreadPoolExecutor", Pool)
    pixels = np.full((1200, 1200, 3), 99, np.uint8)
    first = stored(pixels, tmp_path / "source")
    second = stored(pixels.repeat(scale, 0).repeat(scale, 1), tmp_path / "native")
    assert verify_rows(first, second, 0, 1200, threads=4) == 1.0
    assert workers[-1] == at_once
