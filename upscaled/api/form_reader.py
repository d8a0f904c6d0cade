"""The fields of a request, from its form and its address."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from upscaled.api.multipart import Part
from upscaled.archives import kinds
from upscaled.errors import BadRequestError

IMAGE = "image"
"""Name of the part that holds the picture."""


@dataclass(frozen=True)
class Payload:
    """What a request contains besides its fields, with the words for error messages."""

    part: str
    """Name of the part of a form that holds it."""
    noun: str
    example: str
    """Name of a file."""
    media_type: str
    """That it may have as a body."""
    media_types: frozenset[str] = frozenset()
    """Further ones, beside those of pictures."""


PICTURE = Payload(IMAGE, "picture", "photo.jpg", "image/jpeg")
MODEL = Payload("file", "model", "model.pth", "application/octet-stream")
ARCHIVE = Payload(
    "archive",
    "archive",
    "book.cbz",
    kinds.ZIP.media_type,
    frozenset(kind.media_type for kind in kinds.TABLE),
)

MAX_TEXT_BYTES = 1024  # of a field; the longest sensible one is a model's name
_MAX_URL_BYTES = 4096  # of a field with an address; signed ones have about 1,500
IMAGE_URL = "image_url"
"""Name of the field that says where the picture is, instead of `IMAGE`."""
UPLOAD = "upload"
"""Name of the field with the id of an upload that has come before, instead of `IMAGE`."""
ELSEWHERE = (IMAGE_URL, UPLOAD)
_URL_FIELDS = frozenset({"callback_url", IMAGE_URL})


class FormReader:
    """What has been received of a request's fields so far.

    Args:
        allowed: names of fields besides `IMAGE`.
        query: fields that the request's address has.
        payload: what it brings besides them.

    Raises:
        BadRequestError: ``query`` has a field twice, or one that is too long.
    """

    def __init__(
        self,
        allowed: Iterable[str],
        query: Iterable[tuple[str, str]],
        payload: Payload = PICTURE,
    ) -> None:
        self._payload = payload
        self.allowed = (payload.part, *allowed)
        self.fields: dict[str, str] = {}
        self.filename: str | None = None
        self._seen: set[str] = set()
        self._open: str | None = None
        self._text = bytearray()
        self._image_bytes = 0
        for name, value in query:
            self._see(name)
            self._open = name
            self._text.clear()
            self.text(value.encode("utf-8", "surrogateescape"))
            self.end()

    def begin(self, part: Part) -> None:
        """Record that a part begins.

        Raises:
            BadRequestError: a field by that name was there already, or is not known.
        """
        self.end()
        if part.name not in self.allowed:
            raise BadRequestError(
                f"There is no field {part.name[:64]!r}; the fields are {', '.join(self.allowed)}."
            )
        self._see(part.name)
        self._open = part.name
        self._text.clear()
        if part.name == self._payload.part:
            self.filename = part.filename or ""

    def _see(self, name: str) -> None:
        if name in self._seen:
            raise BadRequestError(f"The field {name!r} was sent twice; send it once.")
        self._seen.add(name)

    def end(self) -> None:
        """Record that the part is complete.

        Raises:
            BadRequestError: its text is no UTF-8.
        """
        if self._open is not None and self._open != self._payload.part:
            try:
                value = self._text.decode()
            except UnicodeDecodeError:
                raise BadRequestError(f"The field {self._open!r} is not UTF-8 text.") from None
            if value.strip():  # a blank input of an HTML form or PHP's false: not given
                self.fields[self._open] = value
        self._open = None

    def text(self, piece: bytes) -> None:
        """Add a piece of a field's text.

        Raises:
            BadRequestError: it grows too long.
        """
        self._text += piece
        most = _MAX_URL_BYTES if self._open in _URL_FIELDS else MAX_TEXT_BYTES
        if len(self._text) > most:
            raise BadRequestError(f"The field {self._open!r} is longer than {most} bytes.")

    @property
    def in_image(self) -> bool:
        """Tell whether the open part is the payload."""
        return self._open == self._payload.part

    def count_image(self, count: int) -> None:
        """Count bytes of the picture."""
        self._image_bytes += count

    def check_complete(self, picture_needed: bool) -> None:
        """Check that a picture came, or that it may be missing.

        Raises:
            BadRequestError: it is missing or empty.
        """
        if given := [name for name in ELSEWHERE if name in self.fields]:
            if self.filename or self._image_bytes:
                given.insert(0, IMAGE)
            if len(given) > 1:
                raise BadRequestError(f"Give either {given[0]} or {given[1]}, not both.")
            self.filename = None
            return
        if not picture_needed and not self.filename and not self._image_bytes:
            self.filename = None  # a file input that was left blank is not a picture
            return
        if self.filename is None:
            raise BadRequestError(
                f"The field `{self._payload.part}` is missing; send the {self._payload.noun} as a "
                "file under that name."
            )
        if not self._image_bytes:
            raise BadRequestError(f"The {self._payload.noun} is empty.")
