"""`plan`: what becomes of each entry of an archive, before any work is done."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from html import unescape
from urllib.parse import unquote

from upscaled.archives.entries import Entry
from upscaled.archives.errors import UnusableArchiveError
from upscaled.archives.kinds import EPUB, Kind
from upscaled.archives.reading import Reader
from upscaled.formats import PNG, SUFFIXES, PictureFormat, by_alias, by_signature

_HEAD_BYTES = 64
_PACKAGE_BYTES = 16 << 20
"""Largest package document of an EPUB that is read; those of long books have some hundred KiB."""
_ITEM = re.compile(rb"<(?:[A-Za-z_][\w.-]*:)?item\b[^>]*>")
_HREF = re.compile(rb"""\bhref\s*=\s*(?:"([^"]*)"|'([^']*)')""")
_TYPE = re.compile(rb"""(\bmedia-type\s*=\s*)(?:"[^"]*"|'[^']*')""")


@dataclass(frozen=True)
class Planned:
    """One entry."""

    entry: Entry
    name: str
    """In the new archive."""
    page: PictureFormat | None = None
    """The format of a picture that is to be upscaled; None: the entry is copied."""
    result: PictureFormat = PNG
    """The format of the upscaled picture."""


def plan(reader: Reader, kind: Kind, wanted: str | None) -> list[Planned]:
    """Return all entries in the order in which they are written; blocking.

    A page is an entry that has the name and the first bytes of a picture. It gets its format's
    ending where ``wanted``, or that its own format can't be written, makes it another one; not in
    an EPUB, whose documents name it.

    Raises:
        UnusableArchiveError: an entry is damaged.
    """
    found = [_planned(reader, entry, kind, wanted) for entry in reader.entries]
    taken = {one.entry.name for one in found}
    for at, one in enumerate(found):
        if one.name != one.entry.name:
            if one.name in taken:  # a.bmp beside a.png
                name = f"{one.entry.name}.{one.result.result_name}"
                if name in taken:
                    raise UnusableArchiveError(
                        f"The archive has both {one.name!r} and {name!r}; rename one of the two."
                    )
                found[at] = Planned(one.entry, name, one.page, one.result)
            taken.add(found[at].name)
    if kind is EPUB:
        found.sort(key=lambda one: one.name != "mimetype")
    return found


def _planned(reader: Reader, entry: Entry, kind: Kind, wanted: str | None) -> Planned:
    stem, dot, end = entry.name.rpartition(".")
    if entry.is_folder or f"{dot}{end.lower()}" not in SUFFIXES:
        return Planned(entry, entry.name)
    with reader.open(entry) as content:
        row = by_signature(content.read(_HEAD_BYTES))
    if row is None:
        return Planned(entry, entry.name)
    named = by_alias(wanted) if wanted else None
    result = named or (row if row.result_name else PNG)
    kept = kind is EPUB or by_alias(end) is result or (result is row and not named)
    name = entry.name if kept else f"{stem}.{result.result_name}"
    return Planned(entry, name, row, result)


def package_document(reader: Reader, one: Planned, pages: list[Planned]) -> bytes | None:
    """Return the package document of an EPUB with the media types of the results; blocking.

    Args:
        reader: the EPUB.
        one: an entry.
        pages: those whose results have another format than they had.

    Returns:
        None: the entry is no package document, or stays as it is.

    Raises:
        UnusableArchiveError: it is damaged.
    """
    if not pages or not one.name.lower().endswith(".opf") or one.entry.size > _PACKAGE_BYTES:
        return None
    folder = one.name.rpartition("/")[0]
    types = {page.name: page.result.media_type.encode() for page in pages}
    with reader.open(one.entry) as content:
        document = content.read()

    def mended(match: re.Match[bytes]) -> bytes:
        tag = match[0]
        href = _HREF.search(tag)
        wanted = types.get(_path(folder, (href[1] or href[2] or b"").decode())) if href else None
        return tag if wanted is None else _TYPE.sub(rb'\1"' + wanted + b'"', tag)

    return _ITEM.sub(mended, document)


def _path(folder: str, href: str) -> str:
    """Return the entry that a reference in a document of ``folder`` means."""
    parts: list[str] = []
    for part in (*folder.split("/"), *unquote(unescape(href)).split("/")):
        if part == "..":
            del parts[-1:]
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def page_fields(fields: Mapping[str, str], result: PictureFormat) -> dict[str, str]:
    """Return the fields for one page.

    Args:
        fields: those for all pages. Without ``format`` pages keep their own, and ``quality`` and
            ``lossless`` are left out where a format has none.
        result: the format of the page's result.
    """
    own = {**fields, "format": result.result_name}
    if "format" not in fields:
        if not result.has_quality:
            own.pop("quality", None)
        if not result.has_lossless:
            own.pop("lossless", None)
    return own
