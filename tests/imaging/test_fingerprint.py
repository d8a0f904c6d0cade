"""Fingerprints tell lossy coding from a file that holds another picture."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from upscaled.imaging.encode.encoder import mean_error_allowed
from upscaled.imaging.encode.fingerprint import Fingerprint
from upscaled.imaging.raw import Pixels


def coded(pixels: Pixels, plugin: str, quality: int) -> Fingerprint:
    """Return the fingerprint of the pixels after lossy coding."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, plugin, quality=quality)
    with Image.open(file) as image:
        return Fingerprint.of(np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("plugin", ["JPEG", "WEBP"])
@pytest.mark.parametrize("quality", [1, 30, 60, 80, 90, 95, 100])
def test_no_picture_however_small_or_wild_is_taken_for_another(plugin: str, quality: int) -> None:
    random = np.random.default_rng(quality)
    for number in range(60):
        width, height = random.integers(1, 9 if number % 2 else 70, 2)
        levels = random.integers(0, 2, (height, width, 3)) * 255
        pixels = levels.astype(np.uint8)
        moved = Fingerprint.of(pixels).difference(coded(pixels, plugin, quality))
        assert moved <= mean_error_allowed(quality), (width, height)


@pytest.mark.parametrize(("width", "height"), [(10, 40), (33, 33), (64, 7), (200, 100)])
def test_another_picture_is_noticed(width: int, height: int) -> None:
    pixels = np.full((height, width, 3), 90, np.uint8)
    other = pixels.copy()
    other[: min(height, 32), : min(width, 32)] = 250
    moved = Fingerprint.of(pixels).difference(coded(other, "JPEG", 90))
    assert moved > mean_error_allowed(90)
