"""Archives of small pages, for tests and benches of archives."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping
from functools import cache

from PIL import Image

from testkit.paths import DATA

_PACKERS: Mapping[str, Callable[[bytes], bytes]] = {
    "tar": bytes,
    "tar.gz": gzip.compress,
    "tar.bz2": bz2.compress,
    "tar.xz": lzma.compress,
}


@cache
def _photo() -> Image.Image:
    with Image.open(DATA / "coffee.jpg") as photo:
        return photo.convert("RGB")


def a_page(number: int, width: int = 24, height: int = 18, format_: str = "PNG") -> bytes:
    """Return a small picture that no other number has."""
    photo = _photo()
    left, top = 5 * number % (photo.width - 100), 3 * number % (photo.height - 100)
    page = photo.crop((left, top, left + 90, top + 90)).resize((width, height))
    page.putpixel((0, 0), (number & 255, number >> 8 & 255, 7))
    file = io.BytesIO()
    page.save(file, format_)
    return file.getvalue()


def a_book(
    pages: int,
    *,
    others: Iterable[tuple[str, bytes]] = (),
    kind: str = "cbz",
    side: int | None = None,
) -> bytes:
    """Return an archive of ``pages`` small pages, with other files behind them.

    Args:
        pages: how many.
        others: further entries.
        kind: of the archive.
        side: of each page, which is a square; None: as of `a_page`.
    """
    sides = () if side is None else (side, side)
    entries = [(f"pages/{number:05}.png", a_page(number, *sides)) for number in range(1, pages + 1)]
    return packed([*entries, *others], kind)


def packed(entries: Iterable[tuple[str, bytes]], kind: str = "cbz") -> bytes:
    """Return an archive of these entries, with a time of their own."""
    file = io.BytesIO()
    if kind.startswith("tar"):
        with tarfile.open(fileobj=file, mode="w") as archive:
            for number, (name, content) in enumerate(entries):
                member = tarfile.TarInfo(name)
                member.size, member.mtime = len(content), 1_000_000_000 + number
                archive.addfile(member, io.BytesIO(content))
        return _PACKERS[kind](file.getvalue())
    with zipfile.ZipFile(file, "w") as book:
        for number, (name, content) in enumerate(entries):
            info = zipfile.ZipInfo(name, (2001, 2, 3, 4, number // 30 % 60, number % 30 * 2))
            book.writestr(info, content)
    return file.getvalue()
