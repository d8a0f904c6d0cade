"""`ZipReader`: a ZIP archive whose entries are checked before any is unpacked."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from upscaled.archives import entries
from upscaled.archives.entries import Bounds, Entry, shown
from upscaled.archives.errors import UnusableArchiveError

_END = b"PK\x05\x06"
_END_BYTES = 22
_LOCATOR = b"PK\x06\x07"
_LOCATOR_BYTES = 20
_END_64 = b"PK\x06\x06"
_END_64_BYTES = 56
_COMMENT_BYTES = 65_535
_LOCAL_BYTES = 30
_ROW_BYTES = 46 + 1024 + 512
"""Most bytes of an entry in the directory: a name, and what else it may have."""
_UNIX = 3
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_PATCH = 0x20
_UTF_8 = 0x800
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_AES = 99
_BROKEN = "The ZIP archive is broken ({}); repack it."


class ZipReader:
    """An open ZIP archive; a context manager. Its methods block.

    Args:
        file: the archive.
        bounds: how much it may hold.

    Raises:
        UnusableArchiveError: it is broken, encrypted, or an entry is dangerous.
        ArchiveTooLargeError: a bound is exceeded.
    """

    def __init__(self, file: Path, bounds: Bounds) -> None:
        directory = _check_directory(file, bounds)
        try:
            self._archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
            raise UnusableArchiveError(_BROKEN.format(_reason(error))) from None
        try:
            self.infos = tuple(self._archive.infolist())
            self.comment = self._archive.comment
            entries.check_count(len(self.infos), bounds)
            for info in self.infos:
                _check_info(info)
            self.entries = tuple(
                Entry(number, info.orig_filename, info.file_size, info.is_dir(), _is_raw(info))
                for number, info in enumerate(self.infos)
            )
            entries.check(self.entries, file.stat().st_size, bounds)
            _check_places(self.infos, directory)
        except BaseException:
            self._archive.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._archive.close()

    def open(self, entry: Entry) -> IO[bytes]:
        """Open an entry's content, see `Reader.open`."""
        try:
            content = self._archive.open(self.infos[entry.number])
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
            raise _damaged(entry, error) from None
        return io.BufferedReader(_Checked(content, entry))


class _Checked(io.RawIOBase):
    """Content whose damages are our errors, and whose length is what the archive says."""

    def __init__(self, content: IO[bytes], entry: Entry) -> None:
        super().__init__()
        self._content = content
        self._entry = entry
        self._left = entry.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            piece = self._content.read(min(len(buffer), self._left) or 1)
        except (zipfile.BadZipFile, zlib.error, EOFError) as error:
            raise _damaged(self._entry, error) from None
        self._left -= len(piece)
        if self._left < 0 or (not piece and self._left and len(buffer)):
            raise _damaged(self._entry, "its size is not the announced one")
        buffer[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        self._content.close()
        super().close()


def _damaged(entry: Entry, why: object) -> UnusableArchiveError:
    return UnusableArchiveError(
        f"The entry {shown(entry.name)} of the archive is damaged ({_reason(why)}); repack it."
    )


def _reason(error: object) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _check_directory(file: Path, bounds: Bounds) -> int:
    """Check the directory's size before it is read into memory; return where it begins.

    Raises:
        UnusableArchiveError: there is none, or the archive has several parts.
        ArchiveTooLargeError: it is too large for the number of entries that are allowed.
    """
    with file.open("rb") as opened:
        size = opened.seek(0, io.SEEK_END)
        start = max(0, size - _END_BYTES - _COMMENT_BYTES)
        opened.seek(start)
        tail = opened.read()
        at = tail.rfind(_END)
        if at < 0 or len(tail) - at < _END_BYTES:
            raise UnusableArchiveError(_BROKEN.format("its end is missing"))
        disk, first, _, count, length, begin, comment = struct.unpack(
            "<4x4H2LH", tail[at : at + _END_BYTES]
        )
        end = start + at
        if end + _END_BYTES + comment != size:
            raise UnusableArchiveError(_BROKEN.format("something follows its end"))
        if 0xFFFF in {disk, first, count} or 0xFFFFFFFF in {length, begin}:
            opened.seek(max(0, end - _LOCATOR_BYTES))
            locator = opened.read(_LOCATOR_BYTES)
            if locator[:4] == _LOCATOR:
                (where,) = struct.unpack("<8xQ4x", locator)
                opened.seek(min(where, size))
                record = opened.read(_END_64_BYTES)
                if record[:4] != _END_64 or len(record) < _END_64_BYTES:
                    raise UnusableArchiveError(_BROKEN.format("its ZIP64 record is missing"))
                disk, first, _, count, length, begin = struct.unpack("<16x2L4Q", record)
                end = where
    if disk or first:
        raise UnusableArchiveError("The ZIP archive is one of several parts; join them first.")
    entries.check_count(count, bounds)
    if length > (bounds.entries + 1) * _ROW_BYTES:
        entries.check_count(bounds.entries + 1, bounds)
    if begin + length != end:
        raise UnusableArchiveError(_BROKEN.format("its directory is not where it should be"))
    return int(begin)


def _is_raw(info: zipfile.ZipInfo) -> bool:
    return not info.flag_bits & _UTF_8


def _check_info(info: zipfile.ZipInfo) -> None:
    name = info.orig_filename
    entries.check_name(name, is_raw=_is_raw(info))
    if info.flag_bits & _ENCRYPTED or info.compress_type == _AES:
        raise UnusableArchiveError(
            f"The entry {shown(name)} of the archive is encrypted; repack it without a password."
        )
    if info.compress_type not in _METHODS or info.flag_bits & _PATCH:
        raise UnusableArchiveError(
            f"The entry {shown(name)} of the archive is compressed by method "
            f"{info.compress_type}; repack it with Deflate or without compression."
        )
    kind = stat.S_IFMT(info.external_attr >> 16) if info.create_system == _UNIX else 0
    if kind == stat.S_IFLNK:
        raise UnusableArchiveError(
            f"The entry {shown(name)} of the archive is a link; repack it with the files "
            "themselves."
        )
    if kind not in {0, stat.S_IFREG, stat.S_IFDIR}:
        raise UnusableArchiveError(
            f"The entry {shown(name)} of the archive is a device; repack it without that."
        )
    if info.is_dir() and info.file_size:
        raise UnusableArchiveError(
            f"The entry {shown(name)} of the archive is a folder with content; repack it."
        )


def _check_places(infos: tuple[zipfile.ZipInfo, ...], directory: int) -> None:
    """Check that no byte of the archive belongs to two entries."""
    end, before = 0, ""
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise UnusableArchiveError(
                f"The entries {shown(before)} and {shown(info.orig_filename)} of the archive "
                "overlap; repack it."
            )
        end = info.header_offset + _LOCAL_BYTES + len(info.orig_filename) + info.compress_size
        before = info.orig_filename
    if end > directory:
        raise UnusableArchiveError(
            f"The entry {shown(before)} of the archive overlaps its directory; repack it."
        )
