"""The table of archive formats: how one is recognised, and what its names and types are."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from upscaled.archives.errors import NotAnArchiveError

_TAR_MAGIC = slice(257, 262)
_HEAD_BYTES = 512
_EPUB_TYPE = b"application/epub+zip"


@dataclass(frozen=True)
class Kind:
    """One row."""

    name: str
    """In records and in the API."""
    suffixes: tuple[str, ...]
    """Ends of file names; the first one is the usual one."""
    media_type: str
    packed: str = ""
    """How a TAR file is compressed: ``gz``, ``bz2`` or ``xz``."""

    @property
    def is_tar(self) -> bool:
        """Whether it is a TAR file, compressed or not."""
        return self.name.startswith("tar")


ZIP = Kind("zip", (".zip",), "application/zip")
CBZ = Kind("cbz", (".cbz",), "application/vnd.comicbook+zip")
EPUB = Kind("epub", (".epub",), _EPUB_TYPE.decode())
TAR = Kind("tar", (".tar", ".cbt"), "application/x-tar")
TAR_GZ = Kind("tar.gz", (".tar.gz", ".tgz"), "application/gzip", "gz")
TAR_BZ2 = Kind("tar.bz2", (".tar.bz2", ".tbz2", ".tbz"), "application/x-bzip2", "bz2")
TAR_XZ = Kind("tar.xz", (".tar.xz", ".txz"), "application/x-xz", "xz")

TABLE = (ZIP, CBZ, EPUB, TAR, TAR_GZ, TAR_BZ2, TAR_XZ)
_BY_NAME = {kind.name: kind for kind in TABLE}
_OTHERS = (
    (b"Rar!\x1a\x07", "a RAR file (CBR)"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z file (CB7)"),
    (b"\x28\xb5\x2f\xfd", "compressed with Zstandard"),
    (b"%PDF-", "a PDF file"),
)
_COMPRESSED = ((b"\x1f\x8b", TAR_GZ), (b"BZh", TAR_BZ2), (b"\xfd7zXZ\x00", TAR_XZ))
ALLOWED = "ZIP, CBZ, EPUB or TAR (also as .tar.gz, .tar.bz2, .tar.xz)"


def kind_named(name: str) -> Kind:
    """Return the kind of this name, one of those in records."""
    return _BY_NAME[name]


def suffix_of(filename: str) -> str | None:
    """Return the end of a file name that an archive has, as it is written; None: it has none."""
    for kind in TABLE:
        for suffix in kind.suffixes:
            if filename.lower().endswith(suffix):
                return filename[-len(suffix) :]
    return None


def recognised(file: Path, filename: str) -> Kind:
    """Return the kind of an archive by its content; ``filename`` tells CBZ from ZIP; blocking.

    Raises:
        NotAnArchiveError: it is no archive that can be read.
        OSError: the file can't be read.
    """
    with file.open("rb") as opened:
        head = opened.read(_HEAD_BYTES)
    for signature, what in _OTHERS:
        if head.startswith(signature):
            raise NotAnArchiveError(f"The file is {what}; repack it as {ALLOWED}.")
    if head[:4] in {b"PK\x03\x04", b"PK\x05\x06"}:
        if _is_epub(head):
            return EPUB
        return CBZ if filename.lower().endswith(CBZ.suffixes) else ZIP
    for signature, kind in _COMPRESSED:
        if head.startswith(signature):
            return kind
    if head[_TAR_MAGIC] == b"ustar":
        return TAR
    if zipfile.is_zipfile(file):
        raise NotAnArchiveError(
            "The ZIP archive begins with something else, such as a program that unpacks it; "
            "repack it without that."
        )
    raise NotAnArchiveError(f"The file is no archive of a known format; send {ALLOWED}.")


def _is_epub(head: bytes) -> bool:
    """Tell whether the first entry is the one that names the type (EPUB 3.3, OCF)."""
    name_bytes, extra_bytes = head[26:28], head[28:30]
    start = 30 + int.from_bytes(name_bytes, "little") + int.from_bytes(extra_bytes, "little")
    return head[30:38] == b"mimetype" and head[start : start + len(_EPUB_TYPE)] == _EPUB_TYPE
