"""Sizes of many pictures: together where they are asked for together."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from testkit.waiting import settled
from upscaled.batch.sizes import Sizes
from upscaled.errors import UnusablePictureError, UpscaledError
from upscaled.imaging import Probe
from upscaled.pictures import Size


class Reader:
    """Reads the width of a picture from its name, when it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.groups: list[int] = []

    async def probe_all(self, uploads: Sequence[Path]) -> list[Probe | UpscaledError]:
        self.groups.append(len(uploads))
        await self.let.wait()
        if uploads[0].name == "broken reader":
            raise OSError("It is broken.")
        return [
            Probe("png", Size(int(upload.name), 1), has_alpha=False)
            if upload.name.isdecimal()
            else UnusablePictureError(f"{upload} is broken.")
            for upload in uploads
        ]


@pytest.fixture
def reader() -> Reader:
    return Reader()


@pytest.fixture
async def sizes(reader: Reader) -> AsyncIterator[Sizes]:
    sizes = Sizes(reader, 2)
    yield sizes
    await sizes.close()


async def test_pictures_that_are_asked_for_together_are_read_together(
    reader: Reader, sizes: Sizes
) -> None:
    asked = [asyncio.create_task(sizes.of(Path(str(number)))) for number in range(1, 201)]
    await settled()
    assert reader.groups == [64, 64]  # two at a time; the others wait
    reader.let.set()
    found = await asyncio.gather(*asked)
    assert [size.width for size in found] == list(range(1, 201))
    assert reader.groups == [64, 64, 64, 8]
    assert await sizes.of(Path("7")) == Size(7, 1)
    assert reader.groups[-1] == 1


async def test_what_is_wrong_with_a_picture_is_told_to_who_asked_for_it(
    reader: Reader, sizes: Sizes
) -> None:
    reader.let.set()
    asked = [asyncio.create_task(sizes.of(Path(name))) for name in ("1", "bad", "3")]
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[1], UnusablePictureError)
    assert [found[0], found[2]] == [Size(1, 1), Size(3, 1)]
    with pytest.raises(OSError, match="It is broken"):
        await sizes.of(Path("broken reader"))
    assert await sizes.of(Path("4")) == Size(4, 1)


async def test_who_does_not_wait_any_more_holds_up_nobody(reader: Reader, sizes: Sizes) -> None:
    first, second = (asyncio.create_task(sizes.of(Path(name))) for name in ("1", "2"))
    await settled()
    third = asyncio.create_task(sizes.of(Path("3")))
    await settled()
    first.cancel()
    third.cancel()
    await settled()
    reader.let.set()
    assert await second == Size(2, 1)
    await settled()
    assert reader.groups == [2]
