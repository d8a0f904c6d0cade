"""Errors that callers may see: each has a public sentence, a code and an HTTP status."""

from __future__ import annotations

import errno
from collections.abc import Mapping

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""Error numbers of a full disk, a quota or a file size limit."""
SHORTAGE = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN, errno.ENOBUFS, errno.EIO}
)
"""Error numbers of a temporary shortage of descriptors, processes or memory, or of a disk that does
not answer. No picture is to blame for them."""


def mib_above(length: int) -> int:
    """Return a number of bytes in MiB, rounded up: what is needed is never told as 0."""
    return -(-length >> 20)


def no_room(error: OSError, words: str) -> str:
    """Return the sentence for a write that failed by `OUT_OF_SPACE`: ``words`` if the disk is full.

    If a limit on the length of files is the cause, free disk space would not help, and the sentence
    says so.
    """
    if error.errno == errno.EFBIG:
        return (
            "A file of this job would be longer than the limit on the server's files (ulimit -f); "
            "send a smaller picture, or start the server with `ulimit -f unlimited`."
        )
    return words


def is_shortage(error: BaseException | None) -> bool:
    """Tell whether ``error`` says that the system is short of something; see `SHORTAGE`."""
    return isinstance(error, OSError) and error.errno in SHORTAGE


class UpscaledError(Exception):
    """Base of all these errors; callers see its message unchanged.

    ``code`` is the stable snake_case name that clients match on, ``status`` the HTTP status,
    ``headers`` what the response has besides its body, such as ``Retry-After``.
    """

    code = "internal_error"
    status = 500

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers: Mapping[str, str] = dict(headers or {})


class ConfigError(UpscaledError):
    """The configuration is not valid; the message names key, value and what is allowed."""

    code = "config_error"


class BadRequestError(UpscaledError):
    """A field of the request is missing, unknown, doubled or out of range."""

    code = "bad_request"
    status = 400


class KeyReusedError(BadRequestError):
    """The request has the Idempotency-Key of another one with another picture or other fields."""

    code = "idempotency_key_reused"
    status = 422


class UnknownModelError(BadRequestError):
    """The request names a model that is not installed."""

    code = "unknown_model"


class UnauthorizedError(UpscaledError):
    """No token, or a wrong one."""

    code = "unauthorized"
    status = 401

    def __init__(self, message: str) -> None:
        super().__init__(message, headers={"WWW-Authenticate": 'Bearer realm="upscaled"'})


class ForbiddenHostError(UpscaledError):
    """The request addresses the server by a name that is not its own."""

    code = "forbidden_host"
    status = 403


class ForbiddenOriginError(UpscaledError):
    """A web page of another site calls, and is not allowed to."""

    code = "forbidden_origin"
    status = 403


class ForbiddenMetricsError(UpscaledError):
    """Metrics are not shown to this caller."""

    code = "forbidden_metrics"
    status = 403


class ForbiddenChangeError(UpscaledError):
    """Only an administrator may add and delete models."""

    code = "forbidden_models"
    status = 403


class NoSuchModelError(UpscaledError):
    """The address names a model that is not installed."""

    code = "unknown_model"
    status = 404


class UnknownImportError(UpscaledError):
    """No import of a model has this id."""

    code = "unknown_import"
    status = 404


class UnknownArchiveError(UpscaledError):
    """There is no archive with this id."""

    code = "unknown_archive"
    status = 404


class NoArchivesError(UpscaledError):
    """Archives are not taken by this server."""

    code = "archives_unsupported"
    status = 501


class RequestTimeoutError(UpscaledError):
    """The request came too slowly."""

    code = "request_timeout"
    status = 408


class UnknownJobError(UpscaledError):
    """No job has this id (or it is somebody else's)."""

    code = "unknown_job"
    status = 404


class UnknownUploadError(UpscaledError):
    """No upload has this id (or it is somebody else's), or it was not continued in time."""

    code = "unknown_upload"
    status = 404


class UploadOffsetError(UpscaledError):
    """The upload continues at another byte; ``Upload-Offset`` says at which."""

    code = "upload_offset"
    status = 409


class UploadIncompleteError(UpscaledError):
    """A part of the upload is still missing."""

    code = "upload_incomplete"
    status = 409


class NoViewError(UpscaledError):
    """The job has no such thumbnail or tile."""

    code = "no_view"
    status = 404


class ViewPendingError(UpscaledError):
    """Thumbnail or tiles are being made; ``Retry-After`` says when to ask again."""

    code = "view_pending"
    status = 503


class KeyInUseError(UpscaledError):
    """A request with the same Idempotency-Key is being received; ``Retry-After`` says more."""

    code = "idempotency_key_in_use"
    status = 409


class WrongStateError(UpscaledError):
    """The job exists, but is not in a state for what was asked."""

    code = "wrong_state"
    status = 409


class ResultGoneError(UpscaledError):
    """The result is no longer there: downloaded (``already_downloaded``) or ``expired``."""

    status = 410

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class TooManyBytesError(UpscaledError):
    """The request body is larger than the server accepts."""

    code = "too_large"
    status = 413


class NotAPictureError(UpscaledError):
    """The file is not of a supported picture format."""

    code = "unsupported_format"
    status = 415


class UnusablePictureError(UpscaledError):
    """A picture of a known format that cannot be upscaled: broken, animated, too many pixels."""

    code = "unusable_picture"
    status = 422


class UnsuitableModelError(UpscaledError):
    """A model's picture is unlike its valid source."""

    code = "unlike_source"
    status = 422


class UnavailableImageError(UpscaledError):
    """The address that the caller named has no picture."""

    code = "image_url_unavailable"
    status = 422


class UnreachableImageError(UpscaledError):
    """The server of the address that the caller named can't be reached, or is at fault."""

    code = "image_url_unreachable"
    status = 502


class ImageTimeoutError(UpscaledError):
    """The picture at the address that the caller named does not come in time."""

    code = "image_url_timeout"
    status = 504


class TooManyRequestsError(UpscaledError):
    """The client exceeded its rate; ``Retry-After`` says when to try again."""

    code = "rate_limited"
    status = 429


class QueueFullError(UpscaledError):
    """The queue is full; ``Retry-After`` says when to try again."""

    code = "queue_full"
    status = 503


class OutboxFullError(UpscaledError):
    """Too many webhook messages of the caller's jobs could not be delivered yet."""

    code = "outbox_full"
    status = 503


class TooManyConnectionsError(UpscaledError):
    """The limit of open connections or event streams is reached."""

    code = "too_many_connections"
    status = 503


class ShuttingDownError(UpscaledError):
    """The server takes no new work because it is stopping."""

    code = "shutting_down"
    status = 503


class StoreUnavailableError(UpscaledError):
    """The database or the object store does not answer; ``Retry-After`` says when to try again."""

    code = "store_unavailable"
    status = 503


class NoSpaceError(UpscaledError):
    """There is not enough disk or memory for what was asked.

    ``need`` and ``free`` are in bytes, None where they are not known: whoever has other words for
    their users than the message makes them of these.
    """

    code = "insufficient_storage"
    status = 507

    def __init__(
        self,
        message: str,
        *,
        headers: Mapping[str, str] | None = None,
        need: int | None = None,
        free: int | None = None,
    ) -> None:
        super().__init__(message, headers=headers)
        self.need = need
        self.free = free


class NoMemoryError(NoSpaceError):
    """There is not enough memory, and waiting would not help."""


class EngineError(UpscaledError):
    """An attempt to upscale failed; the message is the engine's last one, a sentence.

    ``retryable`` is false if no other tile size or device could change the outcome,
    ``tile_matters`` is false if no other tile size could on the same device.
    """

    code = "engine_failed"

    def __init__(self, message: str, *, retryable: bool = True, tile_matters: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.tile_matters = tile_matters


class WorkerFailedError(EngineError):
    """A process of this service hangs or could not be started; the picture may be fine."""


class WorkerDeathError(WorkerFailedError):
    """A process of this service was killed or crashed in the middle of the work.

    Every stage of a job is tried again after it, as often as `upscaled.workers.deaths` says.
    """


class ShortageError(WorkerFailedError):
    """A process could not be started because descriptors, processes or memory are short.

    This is never the picture's fault: wait, and try the same again.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message, tile_matters=False)


class JobTimeoutError(EngineError):
    """The job took longer than it may."""

    code = "timeout"

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)
