"""Parses multipart/form-data (RFC 7578) as a stream; no part is held in memory whole.

docs/architecture.md says why no library does this.
"""

from __future__ import annotations

import base64
import contextlib
import quopri
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from upscaled.errors import BadRequestError

_MAX_HEADER_BYTES = 8192
_MAX_BLANKS = 1024  # after a boundary on its line (RFC 2046 allows them)
_MAX_BOUNDARY_BYTES = 200  # RFC 2046 allows 70; some clients send more

_CHARSETS = frozenset({"utf-8", "us-ascii", "iso-8859-1", "iso-8859-15", "windows-1252"})
"""Of file names; see `_file_name`."""
_WORD = re.compile(r"=\?([A-Za-z0-9-]{1,40})(?:\*[A-Za-z-]*)?\?([BbQq])\?([^?\s]*)\?=")
_ENCODED_WORDS = re.compile(rf"{_WORD.pattern}(?:\s+{_WORD.pattern})*")
_NOT_ASCII_ENCODED = re.compile("%[89A-Fa-f][0-9A-Fa-f]")

_BROKEN = "The multipart body is broken: "


@dataclass(frozen=True)
class Part:
    """The start of a part. ``filename`` is None where the client gave none."""

    name: str
    filename: str | None


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a ``Content-Type`` header names.

    Raises:
        BadRequestError: it names none, or one that is not possible.
    """
    # Not by the standard library: that looks up whatever codec `boundary*=` names.
    _, semicolon, rest = content_type.partition(";")
    text = _parameters(semicolon + rest).get("boundary", "").rstrip()
    boundary = text.encode("utf-8", "surrogateescape")
    if not 0 < len(boundary) <= _MAX_BOUNDARY_BYTES:
        raise BadRequestError(
            "The Content-Type header names no usable boundary; "
            "let your HTTP library set the header of a multipart request."
        )
    return boundary


class _Buffer:
    """The bytes that have come and are not parsed yet."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        # The first delimiter may be at the very start. With a line break before it, it is found
        # like any other.
        self.data = bytearray(b"\r\n")

    async def more(self) -> None:
        """Append the next bytes.

        Raises:
            BadRequestError: there are none.
        """
        async for chunk in self._chunks:
            if chunk:
                self.data += chunk
                return
        raise BadRequestError(_BROKEN + "it ends before its closing boundary.")

    async def at_least(self, count: int) -> None:
        while len(self.data) < count:
            await self.more()

    def take(self, count: int) -> bytes:
        taken = bytes(memoryview(self.data)[:count])
        del self.data[:count]
        return taken

    async def until(self, mark: bytes) -> AsyncIterator[bytes]:
        """Yield the bytes before ``mark``, then drop ``mark``."""
        while (found := self.data.find(mark)) < 0:
            # The last bytes may be the beginning of the mark, so they are kept.
            if (safe := len(self.data) - len(mark) + 1) > 0:
                yield self.take(safe)
            await self.more()
        if found:
            yield self.take(found)
        del self.data[: len(mark)]

    async def line_end(self) -> None:
        """Drop blanks and the line break that end a delimiter's line."""
        blanks = 0
        while True:
            await self.at_least(1)
            rest = self.data.lstrip(b" \t")
            blanks += len(self.data) - len(rest)
            if blanks > _MAX_BLANKS:
                raise BadRequestError(
                    _BROKEN + f"more than {_MAX_BLANKS} blanks follow a boundary on its line."
                )
            self.data = rest
            if rest:
                break
        await self.at_least(2)
        if self.take(2) != b"\r\n":
            raise BadRequestError(_BROKEN + "a boundary is not alone on its line.")

    async def headers(self) -> bytes:
        """Return the header lines of a part and drop the empty line after them."""
        await self.at_least(2)
        if self.data.startswith(b"\r\n"):
            del self.data[:2]
            return b""
        while (found := self.data.find(b"\r\n\r\n")) < 0:
            if len(self.data) > _MAX_HEADER_BYTES:
                break
            await self.more()
        if not 0 <= found <= _MAX_HEADER_BYTES:
            raise BadRequestError(f"A part's headers are longer than {_MAX_HEADER_BYTES} bytes.")
        lines = self.take(found)
        del self.data[:4]
        return lines


def _parameters(disposition: str) -> dict[str, str]:
    """Return the parameters of a ``Content-Disposition`` value, quotes and escapes undone."""
    found: dict[str, str] = {}
    pattern = r';\s*([A-Za-z*]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;\s"]*))'
    for match in re.finditer(pattern, disposition):
        key, quoted, plain = match[1].lower(), match[2], match[3]
        # Browsers write a quote as %22, curl as \"; any other backslash is the file name's own.
        unescaped = re.sub(r'\\(["\\])', r"\1", quoted or "").replace("%22", '"')
        found.setdefault(key, plain if quoted is None else unescaped)
    return found


def _text(raw: bytes) -> str:
    """Decode header bytes: UTF-8, as browsers and curl send it, else Latin-1."""
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return raw.decode("cp1252", "replace")


def _file_name(parameters: Mapping[str, str]) -> str | None:
    """Return the readable file name of a part, however its sender encoded it.

    Only charsets in `_CHARSETS` are decoded: looking up a name makes Python keep it for good.
    """
    charset, quote, encoded = parameters.get("filename*", "").partition("'")
    if quote and charset.lower() in _CHARSETS:  # RFC 5987, as in mail
        return unquote(encoded.partition("'")[2], charset, "replace")
    name = parameters.get("filename")
    if name is None:
        return None
    if _ENCODED_WORDS.fullmatch(name):  # RFC 2047, as in mail
        words = [(word[1].lower(), word[2].upper(), word[3]) for word in _WORD.finditer(name)]
        if all(charset in _CHARSETS for charset, _, _ in words):
            return "".join(_decoded_word(*word) for word in words)
    if _NOT_ASCII_ENCODED.search(name):
        # Some clients send UTF-8 with percent signs. A name such as "100%25" stays as it is.
        with contextlib.suppress(UnicodeDecodeError):
            return unquote(name, errors="strict")
    return name


def _decoded_word(charset: str, encoding: str, text: str) -> str:
    try:
        if encoding == "B":
            raw = base64.b64decode(text + "=" * (-len(text) % 4))
        else:
            raw = quopri.decodestring(text.encode("latin-1", "replace"), header=True)
    except ValueError:
        return text
    return raw.decode(charset, "replace")


def _part(headers: bytes) -> Part:
    for line in _text(headers).split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            kind, semicolon, rest = value.strip().partition(";")
            parameters = _parameters(semicolon + rest)
            if kind.strip().lower() == "form-data" and "name" in parameters:
                return Part(parameters["name"], _file_name(parameters))
    raise BadRequestError(
        _BROKEN + "a part has no header `Content-Disposition: form-data` with a name."
    )


async def parts(chunks: AsyncIterator[bytes], boundary: bytes) -> AsyncGenerator[Part | bytes]:
    """Yield each part's `Part` and then its content, piece by piece, as ``bytes``.

    Raises:
        BadRequestError: the body is not a complete multipart/form-data one.
    """
    buffer = _Buffer(chunks)
    delimiter = b"\r\n--" + boundary
    async for _ in buffer.until(delimiter):
        pass  # the preamble means nothing
    while True:
        await buffer.at_least(2)
        if buffer.data.startswith(b"--"):
            break
        await buffer.line_end()
        yield _part(await buffer.headers())
        async for piece in buffer.until(delimiter):
            yield piece
    async for _ in chunks:
        pass  # so does the epilogue
