"""Where a command's work is done: by a server, or by a service in this process."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

from upscaled.batch.archive_upscaler import ArchiveUpscaler
from upscaled.batch.events import Report
from upscaled.batch.sizes import Sizes
from upscaled.batch.upscaler import Upscaler
from upscaled.config.settings import Config
from upscaled.pictures import Size, SizeLimit

TOKEN_VARIABLE = "UPSCALED_TOKEN"  # noqa: S105 - its name
_MOST_PROCESSES = 4
"""Processes that read sizes; this one can't keep more of them busy."""


@contextlib.asynccontextmanager
async def made_by(
    options: argparse.Namespace, config: Config, work: Path
) -> AsyncIterator[Upscaler]:
    """Yield what does the work: the named server, else a service with its data in ``work``."""
    upscaler: Upscaler
    if options.server:
        from upscaled.batch.remote import RemoteUpscaler  # noqa: PLC0415 - one of the two is loaded

        upscaler = RemoteUpscaler(options.server, options.token or os.environ.get(TOKEN_VARIABLE))
    else:
        from upscaled.batch.local import LocalUpscaler  # noqa: PLC0415

        upscaler = LocalUpscaler(config, work)
    async with upscaler:
        yield upscaler


@contextlib.asynccontextmanager
async def with_archives(
    inner: Upscaler,
    work: Path,
    size_of: Callable[[Path], Awaitable[Size]],
    only_below: SizeLimit | None,
    report: Report,
) -> AsyncIterator[Upscaler]:
    """Yield what takes archives too."""
    # Not `archives`: a service with this data folder deletes there what it does not know.
    unfinished = work / "unfinished-archives"
    async with ArchiveUpscaler(inner, unfinished, size_of, only_below, report) as upscaler:
        yield upscaler


@contextlib.asynccontextmanager
async def sizes(config: Config) -> AsyncIterator[Callable[[Path], Awaitable[Size]]]:
    """Yield what reads the size of a picture, in confined processes that the first ones start."""
    async with contextlib.AsyncExitStack() as closing:
        made: Sizes | None = None

        async def size_of(path: Path) -> Size:
            nonlocal made
            if made is None:
                from upscaled.imaging import Imaging  # noqa: PLC0415 - most runs need none

                processes = min(os.cpu_count() or 1, _MOST_PROCESSES)
                imaging = Imaging(
                    workers=processes,
                    formats=config.features.input_formats,
                    max_pixels=int(config.limits.max_input_megapixels * 1_000_000),
                )
                closing.push_async_callback(imaging.close)
                made = Sizes(imaging, processes)
                closing.push_async_callback(made.close)
            return await made.of(path)

        yield size_of
