"""Reading an upload is cheap, however expensive the picture was made."""

from __future__ import annotations

import asyncio
import contextlib
import struct
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from testkit.pictures import PNG_MARK, chunk, encoded, header
from testkit.zoo import CARD
from upscaled.errors import UnusablePictureError
from upscaled.imaging import Imaging

pytestmark = pytest.mark.asyncio


def _chunks(count: int, name: bytes = b"abCd") -> bytes:
    pixels = chunk(b"IDAT", zlib.compress(bytes(25 * 8)))
    start = header(8, 8, 8, 2)
    return start + chunk(name, b"") * count + pixels + chunk(b"IEND", b"")


def _chunks_behind(count: int) -> bytes:
    pixels = chunk(b"IDAT", zlib.compress(bytes(25 * 8)))
    return header(8, 8, 8, 2) + pixels + chunk(b"tEXt", b"a\0") * count + chunk(b"IEND", b"")


def _segments(count: int) -> bytes:
    jpeg = encoded(CARD, "JPEG")
    return jpeg[:2] + b"\xff\xe5\x00\x02" * count + jpeg[2:]


def _fill_bytes(count: int) -> bytes:
    jpeg = encoded(CARD, "JPEG")
    return jpeg[:2] + b"\xff" * count + jpeg[3:]


def _directories(pages: int, entries: int) -> bytes:
    """Return a TIFF of many pages, each with many meaningless tags."""
    made = bytearray(b"II*\0" + struct.pack("<I", 8))
    for page in range(pages):
        tags = [(256, 4, 1, 8), (257, 4, 1, 8), (273, 4, 1, 8), (279, 4, 1, 8)]
        tags += [(40000 + n % 20000, 4, 1, n) for n in range(entries)]
        made += struct.pack("<H", len(tags))
        made += b"".join(struct.pack("<HHII", *tag) for tag in tags)
        made += struct.pack("<I", 0 if page == pages - 1 else len(made) + 4)
    return bytes(made)


@pytest.fixture
async def imaging() -> AsyncIterator[Imaging]:
    made = Imaging(max_pixels=10**8)
    await made.warm()
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (_chunks(3_000_000), "more than 10000 chunks"),
        (_chunks_behind(20_000), "more than 10000 chunks"),
        (_segments(20_000), "more than 10000 segments"),
        (_fill_bytes(30 << 20), "no picture among its first bytes"),
        (_directories(60, 60_000), "has 60004 tags"),
    ],
    ids=["chunks", "chunks behind", "segments", "fill bytes", "directories"],
)
async def test_a_header_made_to_keep_its_reader_busy_is_refused(
    data: bytes, words: str, imaging: Imaging, tmp_path: Path
) -> None:
    upload = tmp_path / "upload"
    await asyncio.to_thread(upload.write_bytes, data)
    with pytest.raises(UnusablePictureError, match=words):
        await imaging.probe(upload)


@pytest.mark.parametrize("data", [_chunks(5_000), _segments(5_000), _fill_bytes(1000)])
async def test_what_a_real_file_may_have_is_taken(
    data: bytes, imaging: Imaging, tmp_path: Path
) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(data)
    assert (await imaging.probe(upload)).size.pixels > 0


async def test_hostile_pictures_of_one_caller_hold_up_nobody_else(
    imaging: Imaging, tmp_path: Path
) -> None:
    hostile, mine = tmp_path / "hostile", tmp_path / "mine"
    await asyncio.to_thread(hostile.write_bytes, _directories(60, 60_000))
    mine.write_bytes(PNG_MARK + encoded(CARD, "PNG")[8:])
    ended: list[str] = []

    async def look(upload: Path, caller: str) -> None:
        with contextlib.suppress(UnusablePictureError):
            await imaging.probe(upload, caller=caller)
        ended.append(caller)

    greedy = [asyncio.create_task(look(hostile, "greedy")) for _ in range(6)]
    await asyncio.sleep(0)  # they are in the queue now
    await look(mine, "modest")
    # Of the others at most the one was finished that was under way.
    assert ended.count("greedy") <= 1
    for task in greedy:
        task.cancel()
    await asyncio.gather(*greedy, return_exceptions=True)
    assert imaging._pool._places.free == 2
