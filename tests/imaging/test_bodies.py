"""Bands encoded where they are made: the joined file has the bytes that one machine makes."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from testkit import pictures as makers
from testkit.imaging import enlarged
from testkit.pictures import encoded
from testkit.zoo import CARD
from upscaled.imaging import (
    NOTHING_WRITTEN,
    Band,
    BandRows,
    EncodedBody,
    FinishOptions,
    Imaging,
    Prepared,
    ResultProgress,
    UnlikeError,
)
from upscaled.pictures import RawImage, Size

pytestmark = pytest.mark.asyncio(loop_scope="module")

SIZE = Size(72, 500)
ENDS = (0, 131, 140, 330, 500)
BANDS = [Band(top, bottom) for top, bottom in itertools.pairwise(ENDS)]
"""The second one is too low for a body in most formats."""
NATIVE = SIZE.times(2)


def tall(with_alpha: bool, grey: bool) -> Image.Image:
    """Return a picture whose bands differ."""
    card = CARD.convert("RGB").resize((SIZE.width, 100))
    pixels = np.tile(np.asarray(card), (5, 1, 1)).astype(int)
    pixels = pixels * np.linspace(40, 100, SIZE.height).astype(int)[:, None, None] // 100
    picture = Image.fromarray(pixels.astype(np.uint8))
    if grey:
        picture = picture.convert("L").convert("RGB")
    if with_alpha:
        fade = np.linspace(0, 255, SIZE.height).astype(np.uint8)[:, None].repeat(SIZE.width, axis=1)
        picture.putalpha(Image.fromarray(fade))
    return picture


class Desk:
    """A picture, and its enlargement on this machine and on another one."""

    def __init__(self, imaging: Imaging, prepared: Prepared, options: FinishOptions) -> None:
        self.imaging, self.prepared, self.options = imaging, prepared, options
        self.folder = prepared.source.path.parent
        self.native = enlarged(prepared)
        self.pixels = self.native.path.read_bytes()

    async def finish(
        self, band: Band, written: ResultProgress, body: EncodedBody | None = None
    ) -> ResultProgress:
        return await self.imaging.finish(
            self.prepared, self.native, self.folder, self.options, band, written, body
        )

    async def whole(self) -> ResultProgress:
        """Return what one machine makes."""
        written = NOTHING_WRITTEN
        for band in BANDS:
            written = await self.finish(band, written)
        return written

    async def body(self, band: Band) -> EncodedBody:
        """Encode a band on a machine that has no other band, and leave here what it hands in."""
        rows = BandRows.of(band, self.prepared.source.size, self.native.size, self.options)
        there = RawImage(self.folder / "there", self.native.size)
        there.path.write_bytes(self.only(self.pixels, [rows.native], (0, self.native.size.height)))
        body = await self.imaging.encode(self.prepared, there, self.folder, self.options, band)
        here = self.native.path.read_bytes()
        self.native.path.write_bytes(self.only(here, [rows.above, rows.below], rows.native))
        return body

    def only(self, pixels: bytes, kept: list[tuple[int, int]], among: tuple[int, int]) -> bytes:
        """Return pixels of which those ``among`` are overwritten, but for the ``kept`` rows."""
        row = self.native.row_bytes
        made = bytearray(pixels)
        made[among[0] * row : among[1] * row] = b"\xaa" * ((among[1] - among[0]) * row)
        for first, last in kept:
            made[first * row : last * row] = pixels[first * row : last * row]
        return bytes(made)


async def desk(
    imaging: Imaging, folder: Path, picture: Image.Image, options: FinishOptions
) -> Desk:
    data = encoded(picture, "PNG", icc_profile=makers.WIDE)
    await asyncio.to_thread((folder / "upload").write_bytes, data)
    return Desk(imaging, await imaging.prepare(folder / "upload", folder), options)


@pytest.mark.parametrize(
    ("kind", "with_alpha", "grey", "size"),
    [
        ("png", False, False, NATIVE),
        ("png", True, False, Size(101, 701)),
        ("png", False, True, Size(200, 1389)),
        ("jpg", True, False, NATIVE),
        ("jpg", False, False, Size(60, 333)),
        ("jpg", False, True, Size(200, 1389)),
    ],
)
async def test_bands_encoded_apart_make_the_file_that_one_machine_makes(
    kind: str, with_alpha: bool, grey: bool, size: Size, imaging: Imaging, tmp_path: Path
) -> None:
    options = FinishOptions(kind, size, background=(200, 40, 40), keep_metadata=not with_alpha)
    at = await desk(imaging, tmp_path, tall(with_alpha, grey), options)
    wanted = await at.whole()
    assert wanted.finished
    for apart in ({2}, {0, 1, 2, 3}):
        at.native.path.write_bytes(at.pixels)
        bodies = {index: await at.body(BANDS[index]) for index in sorted(apart)}
        written = NOTHING_WRITTEN
        for index, band in enumerate(BANDS):
            written = await at.finish(band, written, bodies.get(index))
        assert written.finished == wanted.finished
        assert written.pieces[-1] == wanted.pieces[-1]


FAULTS = ("black", "noise", "short", "no strips", "other rows", "torn", "another check")
"""A JPEG has no checksum: of the last two, a machine learns by the digest of what was handed in."""


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("png", fault) for fault in FAULTS] + [("jpg", fault) for fault in FAULTS[:-2]],
)
async def test_a_body_that_is_not_the_bands_is_refused(
    kind: str, fault: str, imaging: Imaging, tmp_path: Path
) -> None:
    at = await desk(imaging, tmp_path, tall(False, False), FinishOptions(kind, NATIVE))
    first = await at.finish(BANDS[0], NOTHING_WRITTEN)
    first = await at.finish(BANDS[1], first)
    body = await at.body(BANDS[2])
    content = await asyncio.to_thread(body.path.read_bytes)
    match fault:
        case "black":
            black = replace(at.options, format=kind)
            false = await forged(imaging, tmp_path / "false", black)
            body, content = false, await asyncio.to_thread(false.path.read_bytes)
        case "torn":
            content = content[:200] + b"torn" * 200 + content[1000:]
        case "short":
            content = content[:-9]
        case "no strips":
            body = replace(body, strips=())
        case "other rows":
            body = replace(body, top=body.top - 64)
        case "another check":
            body = replace(body, strips=tuple(p._replace(check=7) for p in body.strips))
        case "noise":
            content = np.random.default_rng(1).bytes(len(content))
    await asyncio.to_thread(body.path.write_bytes, content)
    with pytest.raises(UnlikeError, match="encoded apart"):
        await at.finish(BANDS[2], first, body)
    assert (tmp_path / "result.part").stat().st_size == first.length
    at.native.path.write_bytes(at.pixels)
    assert (await at.finish(BANDS[2], first)).rows > first.rows


async def forged(imaging: Imaging, folder: Path, options: FinishOptions) -> EncodedBody:
    """Return a body of the third band that is well formed, of another picture."""
    folder.mkdir()
    at = await desk(imaging, folder, Image.new("RGB", (SIZE.width, SIZE.height)), options)
    return await at.body(BANDS[2])
