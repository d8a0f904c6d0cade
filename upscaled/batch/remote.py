"""Results from a server."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self

from upscaled.batch.upscaler import Made, OnPercent, Task
from upscaled.client import AsyncClient, FieldRefusedError, JobStatus, UnexpectedAnswerError
from upscaled.errors import BadRequestError
from upscaled.pictures import Size

_PARALLEL = 8
"""Pictures at a time: enough to keep the server busy while others are transferred."""


class RemoteUpscaler:
    """Upscales with a server.

    Args:
        url: the server's address.
        token: its token, if it needs one.
    """

    def __init__(self, url: str, token: str | None) -> None:
        self._client = AsyncClient(url, token=token)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self._client.close()

    @property
    def parallel(self) -> int:
        """How many tasks it takes at a time."""
        return _PARALLEL

    async def completed(self, fields: Mapping[str, str]) -> dict[str, str]:
        """Return ``fields`` with the server's default model and scale, where they name none.

        Raises:
            BadRequestError: a field is wrong.
            ClientError: the server can't be used.
        """
        sides = {
            name: int(fields[name]) for name in ("width", "height") if _is_number(fields, name)
        }
        # Half of what is wanted: a size for which no side is too small or too large.
        width = (sides.get("width", 0) or sides.get("height", 0) or 128) // 2 + 1
        height = (sides.get("height", 0) or sides.get("width", 0) or 128) // 2 + 1
        asked = {name: fields[name] for name in fields if name not in {"quality", "lossless"}}
        with _as_bad_request():
            estimate = await self._client.estimate(width, height, asked)
        filled = {"model_name": estimate.model_name, **fields}
        if not sides:
            filled.setdefault("scale", str(estimate.output_size.width // estimate.input_size.width))
        return filled

    async def upscale(self, task: Task, on_percent: OnPercent) -> Made:
        """Make one result; see `Upscaler`. A task that is cancelled is cancelled on the server."""
        shown = -1

        def on_progress(status: JobStatus) -> None:
            nonlocal shown
            if status.progress is not None and status.progress != shown:
                shown = status.progress
                on_percent(shown)

        with _as_bad_request():
            status = await self._client.upscale(
                task.source, task.target, task.fields, on_progress=on_progress
            )
        if status.input_size is None or status.output_size is None:
            raise UnexpectedAnswerError("The server does not tell the sizes of a completed job.")
        return Made(status.input_size, status.output_size, status.device or "?")

    async def recorded(self, task: Task) -> None:
        """Do nothing: the server deletes what was downloaded."""

    async def estimate(self, size: Size, fields: Mapping[str, str]) -> tuple[Size, float]:
        """Return the size of a result, and its seconds; see `Upscaler`."""
        estimate = await self._client.estimate(size.width, size.height, fields)
        return estimate.output_size, estimate.seconds


@contextlib.contextmanager
def _as_bad_request() -> Iterator[None]:
    """Turn the refusal of a field into the error that a run without a server has."""
    try:
        yield
    except FieldRefusedError as error:
        refused = BadRequestError(error.message)
        refused.code = error.code
        raise refused from error


def _is_number(fields: Mapping[str, str], name: str) -> bool:
    return fields.get(name, "").isdecimal()
