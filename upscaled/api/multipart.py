"""A multipart/form-data body as a stream: no part is ever held in memory whole (RFC 7578)."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from urllib.parse import unquote

from upscaled.errors import BadRequestError

_MAX_HEADER_BYTES = 8192
_MAX_BLANKS = 1024  # after a boundary on its line; senders add none
_MAX_BOUNDARY_BYTES = 200  # RFC 2046 allows 70; some clients are generous

_BROKEN = "The multipart body is broken: "


@dataclass(frozen=True)
class Part:
    """The start of a part. ``filename`` is None where the client gave none."""

    name: str
    filename: str | None


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a ``Content-Type`` header names.

    Raises:
        BadRequestError: it names none, or one that cannot be.
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
    """The bytes at hand, and where more come from."""

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        # The first delimiter may stand at the very start: with a line break before it, it is
        # found like any other.
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
        """Yield what comes before ``mark`` and drop ``mark`` itself."""
        while (found := self.data.find(mark)) < 0:
            # The mark may have begun in the last bytes; they wait for the next ones.
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


def _part(headers: bytes) -> Part:
    for line in headers.decode("utf-8", "replace").split("\r\n"):
        key, _, value = line.partition(":")
        if key.strip().lower() == "content-disposition":
            kind, semicolon, rest = value.strip().partition(";")
            parameters = _parameters(semicolon + rest)
            if kind.strip().lower() == "form-data" and "name" in parameters:
                filename = parameters.get("filename")
                extended = parameters.get("filename*", "")
                if extended.lower().startswith("utf-8''"):
                    filename = unquote(extended[7:])
                return Part(parameters["name"], filename)
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
