"""The Python client of the API.

>>> with Client("http://127.0.0.1:8089") as client:
...     client.upscale(Path("photo.jpg"), Path("large.png"), {"scale": 2})

`AsyncClient` has the same methods as coroutines. Nothing of the server is imported.
"""

from upscaled.client.archives import AsyncArchives, OnPage
from upscaled.client.async_client import AsyncClient, OnProgress
from upscaled.client.download import Downloaded
from upscaled.client.errors import (
    AccessRefusedError,
    ArchiveFailedError,
    BusyError,
    ClientError,
    DamagedDownloadError,
    FieldRefusedError,
    JobCancelledError,
    JobFailedError,
    LocalFileError,
    NoSuchJobError,
    NotPossibleError,
    PictureRefusedError,
    RefusedError,
    ResultDeletedError,
    UnexpectedAnswerError,
    UnreachableError,
)
from upscaled.client.status import (
    ArchivePage,
    ArchiveStatus,
    Attempt,
    Estimate,
    Health,
    JobStatus,
    ModelInfo,
    ModelTime,
)
from upscaled.client.submission import Fields
from upscaled.client.sync_archives import Archives
from upscaled.client.sync_client import Client
from upscaled.client.transport import Retries

__all__ = [
    "AccessRefusedError",
    "ArchiveFailedError",
    "ArchivePage",
    "ArchiveStatus",
    "Archives",
    "AsyncArchives",
    "AsyncClient",
    "Attempt",
    "BusyError",
    "Client",
    "ClientError",
    "DamagedDownloadError",
    "Downloaded",
    "Estimate",
    "FieldRefusedError",
    "Fields",
    "Health",
    "JobCancelledError",
    "JobFailedError",
    "JobStatus",
    "LocalFileError",
    "ModelInfo",
    "ModelTime",
    "NoSuchJobError",
    "NotPossibleError",
    "OnPage",
    "OnProgress",
    "PictureRefusedError",
    "RefusedError",
    "ResultDeletedError",
    "Retries",
    "UnexpectedAnswerError",
    "UnreachableError",
]
