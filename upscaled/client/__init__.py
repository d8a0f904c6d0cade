"""The Python client of the API.

>>> with Client("http://127.0.0.1:8089") as client:
...     client.upscale(Path("photo.jpg"), Path("large.png"), {"scale": 2})

`AsyncClient` has the same methods as coroutines. Nothing of the server is imported.
"""

from upscaled.client.async_client import AsyncClient, Fields, OnProgress
from upscaled.client.download import Downloaded
from upscaled.client.errors import (
    AccessRefusedError,
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
from upscaled.client.status import Attempt, Estimate, Health, JobStatus, ModelInfo
from upscaled.client.sync_client import Client
from upscaled.client.transport import Retries

__all__ = [
    "AccessRefusedError",
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
    "NoSuchJobError",
    "NotPossibleError",
    "OnProgress",
    "PictureRefusedError",
    "RefusedError",
    "ResultDeletedError",
    "Retries",
    "UnexpectedAnswerError",
    "UnreachableError",
]
