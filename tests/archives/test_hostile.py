"""Archives that are made to do harm, or are broken: each is refused with a sentence."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from upscaled.archives.entries import Bounds
from upscaled.archives.errors import ArchiveTooLargeError
from upscaled.archives.kinds import recognised
from upscaled.archives.reading import open_archive
from upscaled.errors import UpscaledError

BOUNDS = Bounds(entries=20, entry_bytes=1 << 20, total_bytes=3 << 20, ratio=100)


def made_zip(**names: bytes) -> bytes:
    return zip_of(list(names.items()))


def zip_of(entries: list[tuple[str | zipfile.ZipInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return file.getvalue()


def named(name: str | bytes, *, utf_8: bool = False) -> bytes:
    """A ZIP with one name, which zipfile would not write."""
    raw = name if isinstance(name, bytes) else name.encode()
    if not utf_8:
        return zip_of([("#" * len(raw), b"x")]).replace(b"#" * len(raw), raw)
    stand_in = "\u00e9" + "#" * (len(raw) - 2)
    return zip_of([(stand_in, b"x")]).replace(stand_in.encode(), raw)


def with_info(**changes: int) -> bytes:
    info = zipfile.ZipInfo("a.png")
    info.create_system = 3
    for field, value in changes.items():
        setattr(info, field, value)
    return zip_of([(info, b"x")])


def patched(at: int, value: bytes, *, row: int = 0) -> bytes:
    """A ZIP of two files, with bytes of a row in its directory changed."""
    content = bytearray(zip_of([("a.png", b"first" * 50), ("b.png", b"second" * 50)]))
    start = content.find(b"PK\x01\x02")
    for _ in range(row):
        start = content.find(b"PK\x01\x02", start + 4)
    content[start + at : start + at + len(value)] = value
    return bytes(content)


def end_changed(at: int, value: bytes) -> bytes:
    content = bytearray(made_zip(a=b"x"))
    start = content.rfind(b"PK\x05\x06")
    content[start + at : start + at + len(value)] = value
    return bytes(content)


def tar_of(*members: tuple[str, bytes, int], size: int | None = None) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content, type_ in members:
            info = tarfile.TarInfo(name)
            info.type = bytes([type_])
            info.size = len(content) if type_ == ord("0") else 0
            info.linkname = "elsewhere"
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def tar_header(name: str, size: int, type_: bytes = b"0") -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, type_
    return info.tobuf(tarfile.GNU_FORMAT)


FILE = ord("0")
BOMB = b"\0" * (1 << 20)

HOSTILE: dict[str, tuple[Callable[[], bytes], str]] = {
    "no archive": (lambda: b"hello" * 500, "no archive of a known format"),
    "empty": (lambda: b"", "no archive of a known format"),
    "rar": (lambda: b"Rar!\x1a\x07\x01\x00" + bytes(600), "RAR file (CBR); repack it as ZIP"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c" + bytes(600), "7z file"),
    "zstandard": (lambda: b"\x28\xb5\x2f\xfd" + bytes(600), "Zstandard"),
    "pdf": (lambda: b"%PDF-1.7" + bytes(600), "PDF"),
    "program before": (lambda: b"#!/bin/sh\n" + made_zip(a=b"x"), "begins with something else"),
    "parent": (lambda: named("../a.png"), "leads out of its folder"),
    "parent inside": (lambda: named("a/../../b.png"), "leads out of its folder"),
    "dot": (lambda: named("a/./b.png"), "leads out of its folder"),
    "absolute": (lambda: named("/etc/passwd"), "absolute path"),
    "drive": (lambda: named("C:/a.png"), "absolute path"),
    "backslash": (lambda: named("a\\b.png"), "backslash"),
    "backslash after a letter": (lambda: named("\u00e9a\\b.png"), "backslash"),
    "backslash in UTF-8": (lambda: named("\u00e9\\b.png", utf_8=True), "backslash"),
    "backslash beside one in a letter": (
        lambda: named("表".encode("cp932") + b"\\..\\b.png"),
        "backslash",
    ),
    "nul": (lambda: named("a.png\0.txt"), "control characters"),
    "newline": (lambda: named("a\nb.png"), "control characters"),
    "long name": (lambda: named("a" * 1025), "longer than 1024 bytes"),
    "twice": (lambda: patched(46, b"a.png", row=1), "twice"),
    "file and folder": (lambda: zip_of([("a", b"x"), ("a/b", b"y")]), "file and a folder"),
    "link": (lambda: with_info(external_attr=0o120777 << 16), "is a link"),
    "device": (lambda: with_info(external_attr=0o020666 << 16), "is a device"),
    "pipe": (lambda: with_info(external_attr=0o010666 << 16), "is a device"),
    "encrypted": (lambda: patched(8, b"\x01\x00"), "encrypted; repack it without a password"),
    "aes": (lambda: patched(10, struct.pack("<H", 99)), "encrypted"),
    "strange method": (lambda: patched(10, struct.pack("<H", 14)), "compressed by method 14"),
    "overlapping": (lambda: patched(42, bytes(4), row=1), "overlap"),
    "overlapping directory": (lambda: patched(20, b"\xff\xff\x00\x00", row=1), "overlaps"),
    "several parts": (lambda: end_changed(4, b"\x01\x00"), "one of several parts"),
    "cut off": (lambda: made_zip(a=b"x" * 5000)[:-10], "broken"),
    "directory elsewhere": (lambda: end_changed(16, b"\x01\x00\x00\x00"), "directory"),
    "tail": (lambda: made_zip(a=b"x") + b"more", "something follows its end"),
    "count": (lambda: zip_of([(f"{n}", b"") for n in range(21)]), "more than 20 entries"),
    "count in the end": (lambda: end_changed(10, b"\x00\xf0"), "more than 20 entries"),
    "directory size": (
        lambda: zip_of([("a" * 1000 + str(n), b"") for n in range(2000)]),
        "more than 20 entries",
    ),
    "large entry": (lambda: made_zip(a=BOMB + b"x"), "has 1 MiB when it is unpacked"),
    "total": (lambda: zip_of([(f"{n}", BOMB) for n in range(4)]), "unpacks to more than 3 MiB"),
    "tar link": (lambda: tar_of(("a", b"", ord("2"))), "is a link"),
    "tar hard link": (lambda: tar_of(("a", b"", ord("1"))), "is a link"),
    "tar device": (lambda: tar_of(("a", b"", ord("3"))), "is a device"),
    "tar pipe": (lambda: tar_of(("a", b"", ord("6"))), "is a device"),
    "tar parent": (lambda: tar_of(("../a", b"x", FILE)), "leads out of its folder"),
    "tar absolute": (lambda: tar_of(("/a", b"x", FILE)), "absolute path"),
    "tar twice": (lambda: tar_of(("a", b"x", FILE), ("a", b"y", FILE)), "twice"),
    "tar cut off": (lambda: tar_of(("a", b"x" * 5000, FILE))[:2000], "cut off"),
    "tar empty": (lambda: tar_header("", 0)[:257] + b"ustar" + bytes(20000), "broken"),
    "tar count": (lambda: tar_of(*((str(n), b"", FILE) for n in range(21))), "more than 20"),
    "tar sparse": (lambda: tar_header("a", 0, b"S") + bytes(1024), "sparse"),
    "tar type": (lambda: tar_header("a", 0, b"Z") + bytes(1024), "unknown type"),
    "tar header bomb": (
        lambda: tar_header("a", 8 << 30, b"L") + bytes(1024),
        "MiB in a header",
    ),
    "gzip bomb": (lambda: gzip.compress(BOMB * 8), "unpacks to more than"),
    "bzip2 bomb": (lambda: bz2.compress(BOMB * 8), "unpacks to more than"),
    "xz bomb": (lambda: lzma.compress(BOMB * 8), "unpacks to more than"),
    "damaged gzip": (lambda: gzip.compress(tar_of(("a", b"x", FILE)))[:-9], "broken"),
    "damaged bzip2": (lambda: bz2.compress(BOMB)[:20] + bytes(40), "broken"),
    "damaged xz": (lambda: lzma.compress(tar_of(("a", b"x", FILE)))[:-9], "cut off"),
    "gzip of a text": (lambda: gzip.compress(b"text" * 300), "broken"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_each_is_refused_with_a_sentence(name: str, tmp_path: Path) -> None:
    make, sentence = HOSTILE[name]
    file = tmp_path / "book"
    file.write_bytes(make())
    with pytest.raises(UpscaledError) as caught:
        open_archive(file, recognised(file, "book.cbz"), tmp_path, BOUNDS)
    assert sentence in caught.value.message
    assert caught.value.message.endswith(".")
    assert caught.value.status in {413, 415, 422}


@pytest.mark.parametrize(
    ("name", "encoding"), [("表紙.png", "cp932"), ("許功蓋.png", "big5"), ("誠.png", "gbk")]
)
def test_names_whose_letters_contain_the_byte_of_a_backslash_are_kept(
    name: str, encoding: str, tmp_path: Path
) -> None:
    file = tmp_path / "book.cbz"
    file.write_bytes(named(name.encode(encoding)))
    with open_archive(file, recognised(file, "book.cbz"), tmp_path, BOUNDS) as reader:
        (entry,) = reader.entries
    assert b"\\" in name.encode(encoding)
    assert entry.name.encode("cp437") == name.encode(encoding)


def test_a_ratio_beyond_the_bounds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_bytes(zip_of([(f"{n}.txt", bytes(9 << 20)) for n in range(30)]))
    wide = Bounds(entries=100, entry_bytes=1 << 30, total_bytes=1 << 40, ratio=100)
    with pytest.raises(ArchiveTooLargeError, match="times its size; up to 100 times"):
        open_archive(tmp_path / "x.zip", recognised(tmp_path / "x.zip", "x.zip"), tmp_path, wide)


def test_what_lies_about_its_size_gives_no_more_than_it_announced(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    content = bytearray(zip_of([("a.bin", b"z" * 5000)]))
    size = content.find(b"PK\x01\x02") + 24
    content[size : size + 4] = struct.pack("<L", 100)
    file.write_bytes(content)
    with open_archive(file, recognised(file, "x.zip"), tmp_path, BOUNDS) as reader:
        (entry,) = reader.entries
        with reader.open(entry) as opened, pytest.raises(UpscaledError, match=r"a\.bin.*damaged"):
            assert len(opened.read()) <= 100


def test_a_damaged_entry_is_told_when_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "x.zip"
    content = bytearray(zip_of([("a.bin", bytes(range(256)) * 40)]))
    content[60] ^= 0xFF
    file.write_bytes(content)
    with open_archive(file, recognised(file, "x.zip"), tmp_path, BOUNDS) as reader:
        (entry,) = reader.entries
        with reader.open(entry) as opened, pytest.raises(UpscaledError, match=r"a\.bin.*damaged"):
            opened.read()
