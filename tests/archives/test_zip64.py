"""ZIP64: entries of more than 4 GiB, and entries that begin behind 4 GiB, in sparse files."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest

from testkit.books import a_page
from upscaled.archives.entries import Bounds
from upscaled.archives.errors import ArchiveTooLargeError
from upscaled.archives.writing import ZipWriter
from upscaled.archives.zip_reader import ZipReader

HUGE = (4 << 30) + 5
BOUNDS = Bounds(entries=10, entry_bytes=5 << 30, total_bytes=6 << 30, ratio=1000)
TIME = (2001, 2, 3, 4, 6, 8)


class Zeros(io.RawIOBase):
    """A stream of zeros."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self._left = size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = min(len(buffer), self._left)
        buffer[:count] = bytes(count)
        self._left -= count
        return count


class SparseFile(io.FileIO):
    """A file that leaves holes where blocks of zeros are written."""

    def write(self, data: Any) -> int:
        if len(data) >= 4096 and not any(memoryview(data)[:64]) and bytes(data) == bytes(len(data)):
            self.seek(len(data), os.SEEK_CUR)
            return len(data)
        return super().write(data)


@pytest.fixture(scope="module")
def huge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ZIP of an entry of more than 4 GiB and a page behind it, made by Python's own writer."""
    path = tmp_path_factory.mktemp("huge") / "huge.zip"
    with SparseFile(path, "w+") as file, zipfile.ZipFile(file, "w") as archive:
        with archive.open(zipfile.ZipInfo("zeros.bin", TIME), "w", force_zip64=True) as entry:
            for start in range(0, HUGE, 1 << 20):
                entry.write(bytes(min(1 << 20, HUGE - start)))
        archive.writestr(zipfile.ZipInfo("1.png", TIME), a_page(1))
    assert path.stat().st_blocks * 512 < 1 << 20, "the file is not sparse"
    return path


def test_entries_beyond_4_gib_are_read_and_written(huge: Path, tmp_path: Path) -> None:
    with ZipReader(huge, BOUNDS) as reader:
        assert [(entry.name, entry.size) for entry in reader.entries] == [
            ("zeros.bin", HUGE), ("1.png", len(a_page(1))),
        ]  # fmt: skip
        with reader.open(reader.entries[1]) as page:
            assert page.read() == a_page(1)
        target = tmp_path / "new.zip"
        with SparseFile(target, "w+") as file:
            writer = ZipWriter(cast(BinaryIO, file), reader)
            content = io.BufferedReader(Zeros(HUGE))
            written = [writer.append(0, "zeros.bin", content, HUGE)]
            larger = a_page(1, 48, 36)
            written.append(writer.append(1, "1.png", io.BytesIO(larger), len(larger)))
            assert written[1].start > 4 << 30
            writer.finish(written)
    with zipfile.ZipFile(target) as archive:
        first, second = archive.infolist()
        assert (first.filename, first.file_size, first.date_time) == ("zeros.bin", HUGE, TIME)
        assert second.header_offset > 4 << 30
        assert archive.read(second) == larger
        with archive.open(first) as entry:
            while entry.read(1 << 20):  # raises where the CRC is wrong
                pass
    with ZipReader(target, BOUNDS) as again:
        assert [entry.size for entry in again.entries] == [HUGE, len(larger)]


def test_the_bounds_count_for_them_too(huge: Path) -> None:
    with pytest.raises(ArchiveTooLargeError, match="up to 1 MiB are allowed"):
        ZipReader(huge, Bounds(entries=10, entry_bytes=1 << 20, total_bytes=6 << 30, ratio=1000))


def test_a_small_archive_may_have_zip64_records(tmp_path: Path) -> None:
    path = tmp_path / "small.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(3):
            with archive.open(f"{number}.png", "w", force_zip64=True) as entry:
                entry.write(a_page(number))
    with ZipReader(path, BOUNDS) as reader:
        assert [entry.name for entry in reader.entries] == ["0.png", "1.png", "2.png"]
        with reader.open(reader.entries[2]) as page:
            assert page.read() == a_page(2)
