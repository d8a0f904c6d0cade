"""`TarReader`: a TAR file whose entries are checked before any is read."""

from __future__ import annotations

import bz2
import copy
import gzip
import io
import lzma
import os
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, Self

from upscaled.archives import entries
from upscaled.archives.entries import Bounds, Entry, shown
from upscaled.archives.errors import ArchiveTooLargeError, UnusableArchiveError
from upscaled.archives.kinds import Kind

UNPACKED = "unpacked.tar"
"""Name of an unpacked TAR file in the work folder."""
_BLOCK = 512
_CHUNK = 1 << 18
_HEADER_BYTES = 1 << 20
"""Most bytes of an extended header; a long name has a few hundred."""
_EXTENDED = frozenset({b"x", b"g", b"X", b"L", b"K"})
_XZ_MEMORY = 256 << 20
"""Bytes that a decoder of xz may take; ``xz -9`` needs 65 MiB."""
_BROKEN = "The TAR archive is broken ({}); repack it."
_OWN_HEADERS = ("path", "linkpath", "size")
"""Extended headers that are written anew."""


class TarReader:
    """An open TAR file; a context manager. Its methods block.

    Args:
        file: the archive.
        kind: how it is compressed.
        work: a folder where a compressed one is unpacked.
        bounds: how much it may hold.

    Raises:
        UnusableArchiveError: it is broken, or an entry is dangerous.
        ArchiveTooLargeError: a bound is exceeded.
        OSError: the disk is full.
    """

    def __init__(self, file: Path, kind: Kind, work: Path, bounds: Bounds) -> None:
        packed = file.stat().st_size
        if kind.packed:
            file = _unpacked(file, kind, work / UNPACKED, packed, bounds)
        self._file = file.open("rb")
        try:
            self.infos = tuple(_members(self._file, bounds))
            self.entries = tuple(
                Entry(number, _name_of(info), info.size if info.isreg() else 0, info.isdir())
                for number, info in enumerate(self.infos)
            )
            entries.check(self.entries, packed, bounds)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def open(self, entry: Entry) -> IO[bytes]:
        """Open an entry's content, see `Reader.open`."""
        content = _Part(self._file, self.infos[entry.number].offset_data, entry)
        return io.BufferedReader(content)


def as_written(info: tarfile.TarInfo, name: str, size: int) -> tarfile.TarInfo:
    """Return a member's header with another name and size."""
    fresh = copy.copy(info)
    fresh.pax_headers = {
        key: value
        for key, value in info.pax_headers.items()
        if key not in _OWN_HEADERS and not key.startswith("GNU.sparse")
    }
    fresh.name, fresh.size = name.rstrip("/"), size
    return fresh


class _Part(io.RawIOBase):
    """The bytes of one member."""

    def __init__(self, file: BinaryIO, offset: int, entry: Entry) -> None:
        super().__init__()
        self._file = file
        self._at = offset
        self._entry = entry
        self._left = entry.size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        count = min(len(buffer), self._left)
        if not count:
            return 0
        piece = os.pread(self._file.fileno(), count, self._at)  # other threads read too
        if not piece:
            raise UnusableArchiveError(_BROKEN.format(f"{shown(self._entry.name)} is cut off"))
        self._at += len(piece)
        self._left -= len(piece)
        buffer[: len(piece)] = piece
        return len(piece)


def _name_of(info: tarfile.TarInfo) -> str:
    name = info.name.removeprefix("./")
    return f"{name.rstrip('/')}/" if info.isdir() else name


def _unpacked(file: Path, kind: Kind, target: Path, packed: int, bounds: Bounds) -> Path:
    """Unpack a compressed TAR file as far as the bounds allow; return it."""
    total = 0
    # A header for each entry is no content of it.
    most = Bounds(
        bounds.entries,
        bounds.entry_bytes,
        bounds.total_bytes + 4 * _BLOCK * bounds.entries,
        bounds.ratio,
    )
    with target.open("wb") as out:
        try:
            for piece in _decompressed(file, kind.packed):
                total += len(piece)
                entries.check_unpacked(total, packed, most)
                out.write(piece)
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise UnusableArchiveError(_BROKEN.format(_reason(error))) from None
        except OSError as error:
            if error.errno is None:  # bz2 says so of damaged data
                raise UnusableArchiveError(_BROKEN.format(_reason(error))) from None
            raise
    return target


def _decompressed(file: Path, packed: str) -> Iterator[bytes]:
    if packed == "xz":
        yield from _of_xz(file)
        return
    with gzip.open(file) if packed == "gz" else bz2.open(file) as opened:
        while piece := opened.read(_CHUNK):
            yield piece


def _of_xz(file: Path) -> Iterator[bytes]:
    """Yield the content of one xz stream, within a bounded memory.

    Raises:
        lzma.LZMAError: it is damaged, or needs more memory.
        EOFError: it is cut off.
    """
    decoder = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    with file.open("rb") as opened:
        while not decoder.eof:
            piece = opened.read(_CHUNK) if decoder.needs_input else b""
            if decoder.needs_input and not piece:
                raise EOFError("it is cut off")
            yield decoder.decompress(piece, _CHUNK)
        if decoder.unused_data.strip(b"\0") or opened.read(1).strip(b"\0"):
            raise lzma.LZMAError("something follows its end")


def _reason(error: object) -> str:
    return str(error).rstrip(".") or type(error).__name__


def _members(file: BinaryIO, bounds: Bounds) -> Iterator[tarfile.TarInfo]:
    """Yield the members.

    Raises:
        UnusableArchiveError: the file is broken, or a member is neither file nor folder.
        ArchiveTooLargeError: there are too many.
    """
    _check_headers(file, bounds)
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for info in archive:
                _check_member(info)
                if not (info.isdir() and info.name.rstrip("/") in {"", "."}):
                    yield info
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UnusableArchiveError(_BROKEN.format(_reason(error))) from None


def _check_headers(file: BinaryIO, bounds: Bounds) -> None:
    """Check all headers without reading what they announce into memory."""
    size = file.seek(0, io.SEEK_END)
    at = count = extended = 0
    while True:
        file.seek(at)
        block = file.read(_BLOCK)
        if block.strip(b"\0") == b"":
            if not count:
                raise UnusableArchiveError(_BROKEN.format("it is empty"))
            return
        try:
            info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        except tarfile.HeaderError as error:
            raise UnusableArchiveError(_BROKEN.format(_reason(error))) from None
        if info.size < 0:
            raise UnusableArchiveError(_BROKEN.format("a size is negative"))
        if info.type in _EXTENDED:
            extended += 1
            if info.size > _HEADER_BYTES or extended > 4 * bounds.entries:
                raise ArchiveTooLargeError(
                    f"The TAR archive has more than {_HEADER_BYTES >> 20} MiB in a header; "
                    "repack it."
                )
        else:
            count += 1
            entries.check_count(count, bounds)
            _check_member(info)
        at += _BLOCK + -(-info.size // _BLOCK) * _BLOCK
        if at > size:
            raise UnusableArchiveError(_BROKEN.format("it is cut off"))


def _check_member(info: tarfile.TarInfo) -> None:
    if info.issym() or info.islnk():
        raise UnusableArchiveError(
            f"The entry {shown(info.name)} of the archive is a link; repack it with the files "
            "themselves (tar --dereference --hard-dereference)."
        )
    if info.ischr() or info.isblk() or info.isfifo():
        raise UnusableArchiveError(
            f"The entry {shown(info.name)} of the archive is a device; repack it without that."
        )
    if info.issparse():
        raise UnusableArchiveError(
            f"The entry {shown(info.name)} of the archive is sparse; repack it without --sparse."
        )
    if not (info.isreg() or info.isdir()):
        raise UnusableArchiveError(
            f"The entry {shown(info.name)} of the archive is of the unknown type {info.type!r}; "
            "repack it."
        )
