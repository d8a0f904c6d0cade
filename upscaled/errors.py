"""The one error root. Each error carries its public sentence, its code and its HTTP status."""

from __future__ import annotations

import errno
from collections.abc import Mapping

OUT_OF_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
"""What the system says when a file can't grow."""


class UpscaledError(Exception):
    """An error whose message may be shown to the caller as it stands.

    ``code`` is the stable snake_case name clients match on, ``status`` the HTTP status,
    ``headers`` what the answer carries beside its body (``Retry-After``, for instance).
    """

    code = "internal_error"
    status = 500

    def __init__(self, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.headers: Mapping[str, str] = dict(headers or {})


class ConfigError(UpscaledError):
    """The configuration cannot be used; the message names key, value and what is allowed."""

    code = "config_error"


class BadRequestError(UpscaledError):
    """A field of the request is missing, unknown, doubled or out of range."""

    code = "bad_request"
    status = 400


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
    """A web page of another site calls, which may not."""

    code = "forbidden_origin"
    status = 403


class RequestTimeoutError(UpscaledError):
    """The request came too slowly."""

    code = "request_timeout"
    status = 408


class UnknownJobError(UpscaledError):
    """No job has this id (or it is somebody else's)."""

    code = "unknown_job"
    status = 404


class WrongStateError(UpscaledError):
    """The job exists, but what was asked for does not fit its state."""

    code = "wrong_state"
    status = 409


class ResultGoneError(UpscaledError):
    """The result was there once: downloaded (code ``already_downloaded``) or ``expired``."""

    status = 410

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class TooManyBytesError(UpscaledError):
    """The request body is larger than the server takes."""

    code = "too_large"
    status = 413


class NotAPictureError(UpscaledError):
    """The bytes are of no picture format that this server takes."""

    code = "unsupported_format"
    status = 415


class UnusablePictureError(UpscaledError):
    """A picture of a known format that cannot be upscaled: broken, animated, too many pixels."""

    code = "unusable_picture"
    status = 422


class TooManyRequestsError(UpscaledError):
    """The client exceeded its rate; ``Retry-After`` says when to come back."""

    code = "rate_limited"
    status = 429


class QueueFullError(UpscaledError):
    """The queue holds as many jobs as it may; ``Retry-After`` says when to come back."""

    code = "queue_full"
    status = 503


class ShuttingDownError(UpscaledError):
    """The server takes no new work because it is stopping."""

    code = "shutting_down"
    status = 503


class NoSpaceError(UpscaledError):
    """Disk or memory does not suffice for what was asked."""

    code = "insufficient_storage"
    status = 507


class NoMemoryError(NoSpaceError):
    """Memory does not suffice, and waiting for it would not help."""


class EngineError(UpscaledError):
    """An attempt to upscale failed; the message is the engine's own last word, one sentence.

    ``retryable`` is false when no other tile size or device could change the outcome,
    ``tile_matters`` when no other tile size could on the same device.
    """

    code = "engine_failed"

    def __init__(self, message: str, *, retryable: bool = True, tile_matters: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable
        self.tile_matters = tile_matters


class JobTimeoutError(EngineError):
    """The job took longer than it may."""

    code = "timeout"

    def __init__(self, message: str) -> None:
        super().__init__(message, retryable=False)
