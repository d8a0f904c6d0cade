"""Writers of archives: entries are appended one by one, and a later process can go on with them."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, BinaryIO

from upscaled.archives.kinds import Kind
from upscaled.archives.tar_reader import TarReader, as_written
from upscaled.archives.zip_reader import ZipReader

_CHUNK = 1 << 18
_LIMIT = 0xFFFFFFFF
_COUNT_LIMIT = 0xFFFF
_UTF_8 = 0x800
_LEVEL = 6
_TAR_RECORD = 10_240
_FIRST = "mimetype"
"""Stored without compression in an EPUB, so that its type can be told from the first bytes."""


@dataclass(frozen=True)
class Written:
    """An entry that was appended."""

    number: int
    """Its place in the original."""
    name: str
    start: int
    """Where it begins in the new archive."""
    end: int
    size: int
    packed: int = 0
    crc: int = 0
    method: int = zipfile.ZIP_STORED


class ZipWriter:
    """Appends entries of a ZIP archive with the times and the attributes of the originals.

    Args:
        file: the new archive, open for reading and writing.
        original: the old one.
    """

    def __init__(self, file: BinaryIO, original: ZipReader) -> None:
        self._file = file
        self._infos = original.infos
        self._comment = original.comment

    def append(self, number: int, name: str, content: IO[bytes], size: int) -> Written:
        """Append one entry; blocking.

        Args:
            number: whose times and attributes it gets.
            name: its name.
            content: ``size`` bytes.
            size: unpacked, in bytes.

        Raises:
            OSError: the disk is full.
        """
        # Pictures are packed already; everything else is as it was.
        unchanged = name == self._infos[number].orig_filename != _FIRST
        method = self._infos[number].compress_type if unchanged else zipfile.ZIP_STORED
        start = self._file.tell()
        head = self._local(Written(number, name, start, start, size, size, 0, method))
        self._file.write(head)
        crc, packed, read = 0, 0, 0
        packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15) if method else None
        while piece := content.read(_CHUNK):
            read += len(piece)
            crc = zlib.crc32(piece, crc)
            out = packer.compress(piece) if packer else piece
            packed += self._file.write(out)
        if packer:
            packed += self._file.write(packer.flush())
        written = Written(number, name, start, self._file.tell(), read, packed, crc, method)
        self._file.seek(start)
        self._file.write(self._local(written))
        self._file.seek(written.end)
        return written

    def _local(self, entry: Written) -> bytes:
        name, common = self._common(entry)
        large = entry.size >= _LIMIT // 2  # before it is packed, which may add a little
        sizes = (_LIMIT, _LIMIT) if large else (entry.packed, entry.size)
        extra = struct.pack("<HHQQ", 1, 16, entry.size, entry.packed) if large else b""
        return (
            struct.pack("<4sH", b"PK\x03\x04", 45 if large else 20)
            + common
            + struct.pack("<LLLHH", entry.crc, *sizes, len(name), len(extra))
            + name
            + extra
        )

    def _common(self, entry: Written) -> tuple[bytes, bytes]:
        """Return an entry's name, and flags, method and time as both headers have them."""
        info = self._infos[entry.number]
        flags = info.flag_bits & _UTF_8
        # Keep the name's bytes: without the UTF-8 flag their encoding is unknown.
        name = entry.name.encode() if flags else entry.name.encode("cp437")
        year, month, day, hour, minute, second = info.date_time
        date = (max(1980, min(year, 2107)) - 1980) << 9 | month << 5 | day
        time = hour << 11 | minute << 5 | second // 2
        return name, struct.pack("<HHHH", flags, entry.method, time, date)

    def finish(self, written: Sequence[Written]) -> None:
        """Append the central directory; blocking.

        Raises:
            OSError: the disk is full.
        """
        begin = self._file.tell()
        for entry in written:
            self._file.write(self._row(entry))
        end = self._file.tell()
        length, count = end - begin, len(written)
        if count >= _COUNT_LIMIT or length >= _LIMIT or begin >= _LIMIT:
            self._file.write(
                struct.pack(
                    "<4sQHHLLQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, begin
                )
            )
            self._file.write(struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1))
        shown = (min(count, _COUNT_LIMIT), min(count, _COUNT_LIMIT))
        places = (min(length, _LIMIT), min(begin, _LIMIT), len(self._comment))
        self._file.write(struct.pack("<4sHHHHLLH", b"PK\x05\x06", 0, 0, *shown, *places))
        self._file.write(self._comment)

    def _row(self, entry: Written) -> bytes:
        info = self._infos[entry.number]
        name, common = self._common(entry)
        fields = [
            value
            for value in (entry.size, entry.packed, entry.start)
            if value >= _LIMIT or entry.size >= _LIMIT // 2
        ]
        large = entry.size >= _LIMIT // 2
        extra = struct.pack(f"<HH{len(fields)}Q", 1, 8 * len(fields), *fields) if fields else b""
        sizes = (_LIMIT, _LIMIT) if large else (entry.packed, entry.size)
        start = _LIMIT if large else min(entry.start, _LIMIT)
        head = struct.pack("<4sBBH", b"PK\x01\x02", 45, info.create_system, 45 if fields else 20)
        lengths = (len(name), len(extra), 0, 0, info.internal_attr & 0xFFFF)
        rest = struct.pack("<LLLHHHHHLL", entry.crc, *sizes, *lengths, info.external_attr, start)
        return head + common + rest + name + extra


class TarWriter:
    """Appends members of a TAR file with the times and the attributes of the originals.

    Args:
        file: the new archive, open for reading and writing.
        original: the old one.
    """

    def __init__(self, file: BinaryIO, original: TarReader) -> None:
        self._file = file
        self._infos = original.infos

    def append(self, number: int, name: str, content: IO[bytes], size: int) -> Written:
        """Append one member, see `ZipWriter.append`; blocking."""
        start = self._file.tell()
        info = as_written(self._infos[number], name, size)
        self._file.write(info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape"))
        shutil.copyfileobj(content, self._file, _CHUNK)
        self._file.write(b"\0" * (-size % tarfile.BLOCKSIZE))
        return Written(number, name, start, self._file.tell(), size)

    def finish(self, _written: Sequence[Written]) -> None:
        """Append the end; blocking."""
        end = self._file.tell() + 2 * tarfile.BLOCKSIZE
        self._file.write(b"\0" * (2 * tarfile.BLOCKSIZE + -end % _TAR_RECORD))


def compress(file: Path, kind: Kind, target: Path) -> None:
    """Compress a finished TAR file as ``kind`` says, deterministically; blocking.

    Raises:
        OSError: the disk is full.
    """
    with file.open("rb") as source, target.open("wb") as out, _packer(kind, out) as packer:
        shutil.copyfileobj(source, packer, _CHUNK)


def _packer(kind: Kind, out: BinaryIO) -> gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile:
    match kind.packed:
        case "gz":
            return gzip.GzipFile("", "wb", _LEVEL, out, mtime=0)
        case "bz2":
            return bz2.BZ2File(out, "wb")
        case _:
            return lzma.LZMAFile(out, "wb", preset=_LEVEL)
