"""`ZipStream`: a ZIP archive that is made while it is sent; pictures are stored as they are."""

from __future__ import annotations

import io
import zipfile
from typing import IO, Any

_EPOCH = (1980, 1, 1, 0, 0, 0)
_PLAIN_FILE = 0o644 << 16


class _Pipe(io.RawIOBase):
    """Keeps what is written until it is taken; it can't go back, so no size is written later."""

    def __init__(self) -> None:
        super().__init__()
        self._written = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, content: Any) -> int:
        before = len(self._written)
        self._written += content
        return len(self._written) - before

    def take(self) -> bytes:
        taken = bytes(self._written)
        self._written.clear()
        return taken


class ZipStream:
    """Makes an archive piece by piece. Memory holds one piece, and a line for each file."""

    def __init__(self) -> None:
        self._pipe = _Pipe()
        self._archive = zipfile.ZipFile(self._pipe, "w", zipfile.ZIP_STORED, allowZip64=True)
        self._file: IO[bytes] = io.BytesIO()

    def begin(self, name: str, size: int) -> bytes:
        """Begin a file of ``size`` bytes; return the next bytes of the archive."""
        info = zipfile.ZipInfo(name, _EPOCH)
        info.external_attr = _PLAIN_FILE
        info.file_size = size
        self._file = self._archive.open(info, "w", force_zip64=size >= zipfile.ZIP64_LIMIT)
        return self._pipe.take()

    def add(self, content: bytes | memoryview) -> bytes:
        """Add content of the file; return the next bytes of the archive."""
        self._file.write(content)
        return self._pipe.take()

    def end_file(self) -> bytes:
        """End the file; return the next bytes of the archive."""
        self._file.close()
        return self._pipe.take()

    def end(self) -> bytes:
        """Return the last bytes of the archive: its directory."""
        self._archive.close()
        return self._pipe.take()


class UniqueNames:
    """Gives names a number where one occurs again, whatever its case."""

    def __init__(self) -> None:
        self._used: set[str] = set()

    def of(self, name: str) -> str:
        """Return ``name``, with a number if it was given before."""
        stem, dot, suffix = name.rpartition(".")
        stem, suffix = (stem, dot + suffix) if stem else (name, "")
        found, number = name, 1
        while found.casefold() in self._used:
            number += 1
            found = f"{stem} ({number}){suffix}"
        self._used.add(found.casefold())
        return found
