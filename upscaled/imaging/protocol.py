"""Requests to an imaging process, and its replies.

The server trusts its own requests. Replies come from processes that decoded untrusted data and may
be compromised. So they name no files, and each field has a bound. `replies` checks what a type
can't express.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from upscaled.imaging.prepared import Prepared
from upscaled.imaging.result import (
    Band,
    EncodedBody,
    FinishOptions,
    Piece,
    ResultProgress,
    StripPart,
)
from upscaled.imaging.view.box import Box
from upscaled.pictures import RawImage, Size

VIEW = "view"
"""Name of the file that a `ViewRequest` writes."""
_METADATA_BYTES = 64 << 20
"""Bytes that a file may have besides its pixels."""


def most_result_bytes(size: Size) -> int:
    """Return the largest possible length of a result's file."""
    return 5 * size.pixels + _METADATA_BYTES


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """A request: what it may read, write and use."""

    cpu_seconds: int = 60
    required: tuple[str, ...] = ()
    """Sandbox measures (`Confinement.active`) without which the request must not run."""
    decodes: ClassVar[bool] = False
    """Whether it decodes the upload, so that a crash is the picture's fault."""

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files it reads."""
        return ()

    @property
    def folder(self) -> Path | None:
        """The folder it writes to."""
        return None

    def file_bytes(self, max_pixels: int) -> int:
        """Return how long a file it may write, in bytes."""
        return 0


class PingRequest(Request, frozen=True, kw_only=True, tag="ping"):
    """Report the measures that confine a request."""


class _FolderRequest(Request, frozen=True, kw_only=True):
    """A request that writes to a folder."""

    workdir: Path

    @property
    def folder(self) -> Path | None:
        return self.workdir


class _UploadRequest(_FolderRequest, frozen=True, kw_only=True):
    """A request that decodes an upload into a folder."""

    upload: Path
    decodes: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Path, ...]:
        return (self.upload,)


class ProbeRequest(Request, frozen=True, kw_only=True, tag="probe"):
    """Read a picture's header; decode it too if it is small and a folder is given."""

    upload: Path
    workdir: Path | None = None
    max_pixels: int = 0
    """Largest picture that is decoded."""
    decodes: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Path, ...]:
        return (self.upload,)

    @property
    def folder(self) -> Path | None:
        return self.workdir

    def file_bytes(self, max_pixels: int) -> int:
        return 0 if self.workdir is None else 3 * self.max_pixels + _METADATA_BYTES


class ProbesRequest(Request, frozen=True, kw_only=True, tag="probes"):
    """Read the headers of several pictures."""

    uploads: tuple[Path, ...]
    decodes: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Path, ...]:
        return self.uploads


class PrepareRequest(_UploadRequest, frozen=True, kw_only=True, tag="prepare"):
    """Decode a picture into files."""

    def file_bytes(self, max_pixels: int) -> int:
        return 3 * max_pixels + _METADATA_BYTES


class CheckRequest(Request, frozen=True, kw_only=True, tag="check"):
    """Compare rows of a picture with their enlargement."""

    source: RawImage
    native: RawImage
    band: Band

    @property
    def reads(self) -> tuple[Path, ...]:
        return (self.source.path, self.native.path)


class _BandRequest(_FolderRequest, frozen=True, kw_only=True):
    """A request that verifies and encodes a band."""

    prepared: Prepared
    native: RawImage
    options: FinishOptions
    band: Band

    @property
    def reads(self) -> tuple[Path, ...]:
        alpha = self.prepared.alpha
        others = (None if alpha is None else alpha.path, self.prepared.sidecar)
        files = (self.prepared.source.path, self.native.path, *others)
        return tuple(path for path in files if path is not None)

    def file_bytes(self, max_pixels: int) -> int:
        return self.most_bytes

    @property
    def most_bytes(self) -> int:
        """Largest possible size of the result's file."""
        return most_result_bytes(self.options.size)


class EncodeRequest(_BandRequest, frozen=True, kw_only=True, tag="encode"):
    """Verify a band and encode its body into a file of its own."""

    @property
    def path(self) -> Path:
        """The file."""
        return self.workdir / f"body-{self.band.top}"


class FinishRequest(_BandRequest, frozen=True, kw_only=True, tag="finish"):
    """Verify a band and write the rows it adds to the result."""

    written: ResultProgress
    body: EncodedBody | None = None
    """The band's body, if that is encoded already."""
    small: bool = False
    """The resident process writes it itself: of the upload, only decoded pixels are used."""

    @property
    def reads(self) -> tuple[Path, ...]:
        return super().reads if self.body is None else (*super().reads, self.body.path)


class ViewRequest(_FolderRequest, frozen=True, kw_only=True, tag="view"):
    """Write a thumbnail of a picture, or its tiles, to the file `VIEW`."""

    picture: Path
    most_bytes: int
    """Longest file that may be written."""
    tiles: bool
    """Write the tiles of all levels; else a thumbnail."""
    decodes: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Path, ...]:
        return (self.picture,)

    def file_bytes(self, max_pixels: int) -> int:
        return self.most_bytes


class CropRequest(_UploadRequest, frozen=True, kw_only=True, tag="crop"):
    """Decode a part of a picture into files."""

    box: Box

    def file_bytes(self, max_pixels: int) -> int:
        return 3 * self.box.most_pixels + _METADATA_BYTES


AnyRequest = (
    PingRequest
    | ProbeRequest
    | ProbesRequest
    | PrepareRequest
    | CheckRequest
    | EncodeRequest
    | FinishRequest
    | ViewRequest
    | CropRequest
)

Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
Side = Annotated[int, Meta(ge=1, lt=1 << 31)]
Score = Annotated[float, Meta(ge=0, le=1)]
Word = Annotated[str, Meta(max_length=16, pattern="^[a-z0-9]+$")]
Phrase = Annotated[str, Meta(max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*$")]
Phrases = Annotated[tuple[Phrase, ...], Meta(max_length=64)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reply; unknown fields are refused."""


class PingReply(Reply, frozen=True):
    """The active measures of the sandbox."""

    active: Phrases
    lacking: Phrases


class PreparedReply(Reply, frozen=True):
    """The files in the job's folder are written."""

    width: Side
    height: Side
    has_alpha: bool
    has_sidecar: bool
    kept: Phrases
    lost: Phrases
    grey: bool


class ProbeReply(Reply, frozen=True):
    """The header, and the decoded picture if it was decoded."""

    format: Word
    width: Side
    height: Side
    has_alpha: bool
    prepared: PreparedReply | None
    broken: Phrase
    """Why the picture can't be decoded; empty if it can, or was not tried."""


class ProbesReply(Reply, frozen=True):
    """The headers, in the order of the request."""

    headers: tuple[ProbeReply | None, ...]
    """None: a `ProbeRequest` for this one alone tells why it can't be read."""


class PrepareReply(Reply, frozen=True):
    """The picture is decoded."""

    prepared: PreparedReply


class ViewReply(Reply, frozen=True):
    """The view is written; the size is the picture's."""

    width: Side
    height: Side


class CheckReply(Reply, frozen=True):
    """The score of the rows."""

    score: Score


class EncodeReply(Reply, frozen=True):
    """The strips of a body, and the score of its band."""

    score: Score
    strips: Annotated[tuple[StripPart, ...], Meta(max_length=1 << 20)]


class FileReply(Reply, frozen=True):
    """The result is complete."""

    length: Count
    sha256: Sha256
    kept: Phrases
    lost: Phrases


class FinishReply(Reply, frozen=True):
    """The progress of the result."""

    rows: Count
    length: Count
    state: Annotated[int, Meta(ge=0, lt=1 << 32)]
    score: Score
    pieces: Annotated[tuple[Piece, ...], Meta(max_length=2)]
    """The pieces that this band added."""
    file: FileReply | None
