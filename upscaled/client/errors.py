"""Errors of calls: the server's refusals, ends of jobs, network failures."""

from __future__ import annotations

from upscaled.client.status import ArchiveStatus, JobStatus
from upscaled.errors import UpscaledError


class ClientError(UpscaledError):
    """The base of all errors that the client raises, each with its ``code`` and ``message``."""


class UnreachableError(ClientError):
    """The server did not answer, or broke off its answers, in all attempts."""

    code = "unreachable"


class UnexpectedAnswerError(ClientError):
    """What answers is no upscaled server, or a proxy in front of it failed."""

    code = "unexpected_answer"


class DamagedDownloadError(ClientError):
    """What arrived has another SHA-256 than the server announced."""

    code = "damaged_download"


class LocalFileError(ClientError):
    """A file on this machine can't be read or written."""

    code = "local_file"


class RefusedError(ClientError):
    """The server refused a request.

    Args:
        message: the server's sentence.
        code: the server's code, see docs/api.md.
        status: the HTTP status.
        retry_after: seconds after which the server wants to be asked again, if it says so.
    """

    def __init__(
        self, message: str, *, code: str, status: int, retry_after: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.status = status
        self.retry_after = retry_after


class FieldRefusedError(RefusedError):
    """A field or a parameter is wrong; every other picture would be refused too."""


class AccessRefusedError(RefusedError):
    """The token is missing or wrong, or the server does not serve this caller."""


class PictureRefusedError(RefusedError):
    """The picture can't be upscaled: too large, of no supported format, or broken."""


class NoSuchJobError(RefusedError):
    """The server does not know the job."""


class NotPossibleError(RefusedError):
    """The job is not in a state for what was asked."""


class ResultDeletedError(RefusedError):
    """The result was downloaded already, or expired."""


class BusyError(RefusedError):
    """The server accepts no more for now; ``retry_after`` may say for how long."""


class JobFailedError(ClientError):
    """The job failed; ``job`` is its status."""

    code = "job_failed"

    def __init__(self, job: JobStatus) -> None:
        super().__init__(job.error or "The job failed.")
        self.job = job


class JobCancelledError(ClientError):
    """The job was cancelled; ``job`` is its status."""

    code = "job_cancelled"

    def __init__(self, job: JobStatus) -> None:
        super().__init__("The job was cancelled.")
        self.job = job


class ArchiveFailedError(ClientError):
    """The archive failed; ``archive`` is its status."""

    code = "archive_failed"

    def __init__(self, archive: ArchiveStatus) -> None:
        super().__init__(archive.error or "The archive failed.")
        self.archive = archive


_BY_STATUS: dict[int, type[RefusedError]] = {
    400: FieldRefusedError,
    401: AccessRefusedError,
    403: AccessRefusedError,
    404: NoSuchJobError,
    409: NotPossibleError,
    410: ResultDeletedError,
    413: PictureRefusedError,
    415: PictureRefusedError,
    422: PictureRefusedError,
    429: BusyError,
    503: BusyError,
    507: BusyError,
}


def refusal(
    message: str, *, code: str, status: int, retry_after: float | None = None
) -> RefusedError:
    """Return the error for an answer of the server."""
    kind = _BY_STATUS.get(status, RefusedError)
    return kind(message, code=code, status=status, retry_after=retry_after)
