"""What the server asks of an imaging process, and what it may answer.

The server trusts its own requests. Replies come from processes that decoded strangers' bytes and
may have been taken over: they name no files, and each field has a bound. `replies` checks what a
type cannot express.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from upscaled.imaging.prepared import Prepared
from upscaled.imaging.result import Band, FinishOptions, Piece, Written
from upscaled.pictures import RawImage

_METADATA_BYTES = 64 << 20
"""What a file may hold beside its pixels."""


class Request(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """A request: what it may read, write and use up."""

    cpu_seconds: int = 60
    required: tuple[str, ...] = ()
    """Measures of the sandbox (`Confinement.active`) without which nothing may be done."""
    decodes: ClassVar[bool] = False
    """The upload's own bytes are decoded, so a crash is the picture's fault."""

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files it needs."""
        return ()

    @property
    def folder(self) -> Path | None:
        """The folder it writes to."""
        return None

    def file_bytes(self, max_pixels: int) -> int:
        """Return how long a file it may write."""
        return 0


class PingRequest(Request, frozen=True, kw_only=True, tag="ping"):
    """Tell which measures confine a request."""


class ProbeRequest(Request, frozen=True, kw_only=True, tag="probe"):
    """Read a picture's header; decode it too, if there is a folder for it and it is small."""

    upload: Path
    workdir: Path | None = None
    max_pixels: int = 0
    """Most pixels that are decoded."""
    decodes: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files it needs."""
        return (self.upload,)

    @property
    def folder(self) -> Path | None:
        """The folder it writes to."""
        return self.workdir

    def file_bytes(self, max_pixels: int) -> int:
        """Return how long a file it may write."""
        return 0 if self.workdir is None else 3 * self.max_pixels + _METADATA_BYTES


class PrepareRequest(Request, frozen=True, kw_only=True, tag="prepare"):
    """Decode a picture into files."""

    upload: Path
    workdir: Path
    decodes: ClassVar[bool] = True

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files it needs."""
        return (self.upload,)

    @property
    def folder(self) -> Path | None:
        """The folder it writes to."""
        return self.workdir

    def file_bytes(self, max_pixels: int) -> int:
        """Return how long a file it may write."""
        return 3 * max_pixels + _METADATA_BYTES


class CheckRequest(Request, frozen=True, kw_only=True, tag="check"):
    """Compare rows of a picture with their enlargement."""

    source: RawImage
    native: RawImage
    band: Band

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files it needs."""
        return (self.source.path, self.native.path)


class FinishRequest(Request, frozen=True, kw_only=True, tag="finish"):
    """Verify a band and write what it adds to the result."""

    prepared: Prepared
    native: RawImage
    workdir: Path
    options: FinishOptions
    band: Band
    written: Written
    small: bool = False
    """Written by the resident process itself: nothing of the upload but pixels takes part."""

    @property
    def reads(self) -> tuple[Path, ...]:
        """The files it needs."""
        alpha = self.prepared.alpha
        beside = (None if alpha is None else alpha.path, self.prepared.sidecar)
        files = (self.prepared.source.path, self.native.path, *beside)
        return tuple(path for path in files if path is not None)

    @property
    def folder(self) -> Path | None:
        """The folder it writes to."""
        return self.workdir

    def file_bytes(self, max_pixels: int) -> int:
        """Return how long a file it may write."""
        return self.most_bytes

    @property
    def most_bytes(self) -> int:
        """How long the result's file can be."""
        return 5 * self.options.size.pixels + _METADATA_BYTES


AnyRequest = PingRequest | ProbeRequest | PrepareRequest | CheckRequest | FinishRequest

Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
Side = Annotated[int, Meta(ge=1, lt=1 << 31)]
Score = Annotated[float, Meta(ge=0, le=1)]
Word = Annotated[str, Meta(max_length=16, pattern="^[a-z0-9]+$")]
Phrase = Annotated[str, Meta(max_length=300, pattern=r"^[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*$")]
Phrases = Annotated[tuple[Phrase, ...], Meta(max_length=64)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Reply(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A reply; fields that it does not have are refused."""


class PingReply(Reply, frozen=True):
    """The measures of the sandbox."""

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
    """What the header promises, and what was decoded, if it was."""

    format: Word
    width: Side
    height: Side
    has_alpha: bool
    prepared: PreparedReply | None
    broken: Phrase
    """Why the picture cannot be decoded; empty where it can, or was not tried."""


class PrepareReply(Reply, frozen=True):
    """The picture is decoded."""

    prepared: PreparedReply


class CheckReply(Reply, frozen=True):
    """How like the source the rows are."""

    score: Score


class FileReply(Reply, frozen=True):
    """The result is complete."""

    length: Count
    sha256: Sha256
    kept: Phrases
    lost: Phrases


class FinishReply(Reply, frozen=True):
    """How far the result is written now."""

    rows: Count
    length: Count
    state: Annotated[int, Meta(ge=0, lt=1 << 32)]
    score: Score
    pieces: Annotated[tuple[Piece, ...], Meta(max_length=2)]
    """Those that this band added."""
    file: FileReply | None
