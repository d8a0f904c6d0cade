"""A wrong decoding of a TIFF or BMP is noticed by comparison with Pillow."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit.pictures import encoded
from testkit.tiff_cases import ALL, case_of
from testkit.tiffs import tiff
from testkit.zoo import CARD
from upscaled.errors import UnusablePictureError
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.decode.bmp import BmpPicture
from upscaled.imaging.decode.decoded import Decoded
from upscaled.imaging.decode.prepare import prepare
from upscaled.imaging.decode.reader import open_picture
from upscaled.imaging.decode.tiff.page import TiffPage
from upscaled.imaging.decode.witness import compare_with_witness, has_witness

OPENERS: dict[str, type[TiffPage | BmpPicture]] = {"TIFF": TiffPage, "BMP": BmpPicture}


def _noise(decoded: Decoded) -> Decoded:
    pixels = np.random.default_rng(1).integers(0, 256, (*decoded.image.size[::-1], 3), np.uint8)
    return replace(decoded, image=Image.fromarray(pixels))


def _swapped(decoded: Decoded) -> Decoded:
    red, green, blue = decoded.image.split()
    return replace(decoded, image=Image.merge("RGB", (blue, red, green)))


def _dark(decoded: Decoded) -> Decoded:
    return replace(decoded, image=decoded.image.point(lambda level: level // 2))


def _moved(decoded: Decoded) -> Decoded:
    rows = np.roll(np.asarray(decoded.image), 9, axis=1)
    return replace(decoded, image=Image.fromarray(rows))


@pytest.mark.parametrize("kind", OPENERS)
@pytest.mark.parametrize("fault", [_noise, _swapped, _dark, _moved])
def test_a_wrong_decoding_is_refused(
    kind: str, fault: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opener = OPENERS[kind]
    (tmp_path / "upload").write_bytes(encoded(CARD, kind))
    prepare(tmp_path / "upload", tmp_path, INPUT_NAMES, 10**6)
    right = opener.decode
    assert callable(fault)
    monkeypatch.setattr(opener, "decode", lambda page: fault(right(page)))
    with pytest.raises(UnusablePictureError, match="Two decoders read"):
        prepare(tmp_path / "upload", tmp_path, INPUT_NAMES, 10**6)


def test_the_witness_agrees_wherever_it_is_asked(tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    asked = 0
    for kind in ALL:
        samples, _, tags = case_of(kind)
        upload.write_bytes(tiff(samples, kind, tags=tags))
        try:
            opened = open_picture(upload, INPUT_NAMES, 10**6)
        except UnusablePictureError:
            continue
        with opened:
            if opened.page is None or not has_witness(opened.page):
                continue
            opened.load()
            difference = compare_with_witness(upload, opened.format, opened.image)
        if difference is not None:
            asked += 1
            assert difference < 2, kind.name
    print(f"TIFF kinds with a second witness: {asked} of {len(ALL)}")  # noqa: T201
    assert asked > 120
