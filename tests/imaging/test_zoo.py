"""Every picture of the zoo looks the same in the result, in every format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit.eye import mean_delta_e, on_white, seen
from testkit.imaging import enlarged, finished, pixels_of
from testkit.zoo import Animal, animals
from upscaled.formats import RESULT_NAMES
from upscaled.imaging import FinishOptions, Imaging, Prepared

pytestmark = pytest.mark.asyncio(loop_scope="module")

ZOO = tuple(animals())


def _by_name(animal: Animal) -> str:
    return animal.name


async def _prepared(animal: Animal, imaging: Imaging, workdir: Path) -> Prepared:
    upload = workdir / f"upload{animal.suffix}"
    upload.write_bytes(animal.data)
    probe = await imaging.probe(upload)
    assert (probe.size.height, probe.size.width) == animal.colour.shape[:2]
    assert probe.format == animal.name.split()[0]
    prepared = await imaging.prepare(upload, workdir)
    assert prepared.source.size == probe.size
    assert probe.has_alpha or prepared.alpha is None
    return prepared


@pytest.mark.parametrize("animal", ZOO, ids=_by_name)
async def test_comes_through_looking_like_itself(
    animal: Animal, imaging: Imaging, tmp_path: Path
) -> None:
    prepared = await _prepared(animal, imaging, tmp_path)
    assert (prepared.alpha is None) == (animal.alpha is None)
    for word in animal.kept:
        assert any(word in phrase for phrase in prepared.kept), prepared.kept
    for word in animal.lost:
        assert any(word in phrase for phrase in prepared.lost), prepared.lost
    native = enlarged(prepared)
    managed = Image.fromarray(on_white(animal.colour, animal.alpha))
    size = (native.size.width, native.size.height)
    wanted = np.asarray(managed.resize(size, Image.Resampling.LANCZOS).reduce(2))
    for kept in (True, False):
        for kind in RESULT_NAMES:
            options = FinishOptions(kind, native.size, keep_metadata=kept)
            done = await finished(imaging, prepared, native, tmp_path, options)
            colour, alpha = seen(done.path)
            assert colour.shape[:2] == (native.size.height, native.size.width)
            assert (alpha is not None) == (animal.alpha is not None and kind != "jpg")
            looks = Image.fromarray(on_white(colour, alpha)).reduce(2)
            assert mean_delta_e(np.asarray(looks), wanted) < 3, (kind, kept)


@pytest.mark.parametrize("animal", [a for a in ZOO if a.alpha is not None], ids=_by_name)
async def test_alpha_is_the_sources_own(animal: Animal, imaging: Imaging, tmp_path: Path) -> None:
    prepared = await _prepared(animal, imaging, tmp_path)
    assert prepared.alpha is not None
    assert animal.alpha is not None
    off = np.abs(pixels_of(prepared.alpha)[..., 0].astype(int) - animal.alpha)
    assert off.max() <= (0 if animal.name != "avif alpha" else 12)
