"""Upscales one picture without a server: same pipeline, temporary data folder."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from upscaled.config.settings import Config
from upscaled.errors import BadRequestError, ConfigError, EngineError, UpscaledError
from upscaled.formats import by_alias
from upscaled.jobs.job import Job, JobState
from upscaled.service.service import Service


async def upscale_file(
    config: Config,
    source: Path,
    target: Path,
    fields: Mapping[str, str],
    on_progress: Callable[[int], None],
) -> Job:
    """Upscale the picture ``source`` into the file ``target``.

    ``target`` is written completely or not at all; an existing file is replaced. Its suffix sets
    the result's format where ``fields`` has none.

    Args:
        config: the settings; of ``storage``, only the cache of model properties is used.
        source: the picture; it is not changed.
        target: the result.
        fields: as in a request to the server, without ``image``.
        on_progress: called with the percentage whenever it changes.

    Returns:
        The completed job.

    Raises:
        UpscaledError: one sentence about what is wrong with the files, the fields or the result.
    """
    fields = dict(fields)
    suffix = target.suffix.removeprefix(".").lower()
    if suffix:
        named = fields.setdefault("format", suffix).lower()
        if (by_alias(named) or named) != (by_alias(suffix) or suffix):
            raise BadRequestError(
                f"The format is {named}, but the result's name ends in .{suffix}; make them match."
            )
    folder = await asyncio.to_thread(_make_work_folder, source, target)
    try:
        # Beside the target, so that the result is renamed into place, not copied.
        storage = dataclasses.replace(config.storage, data_dir=str(folder))
        # When the service stops, the job has ended or was given up: there is nothing to wait for.
        server = dataclasses.replace(config.server, drain_seconds=0)
        service = Service(
            dataclasses.replace(config, storage=storage, server=server),
            models_cache=config.models_cache,
        )
        await service.start()
        try:
            upload = service.submissions.reserve_upload()
            with _as_sentence(source):
                await asyncio.to_thread(shutil.copyfile, source, upload)
            job = await service.submissions.submit(fields, upload, source.name)
            job = await _ended(service, job, on_progress)
            if job.state is not JobState.COMPLETED:
                raise EngineError(job.error or f"The job was {job.state}.")
            result = await service.result(job.id)
            with _as_sentence(target):
                await asyncio.to_thread(result.path.replace, target)
        finally:
            await service.stop()
    finally:
        with _as_sentence(folder):
            await asyncio.to_thread(shutil.rmtree, folder)
    return job


@contextlib.contextmanager
def _as_sentence(path: Path) -> Iterator[None]:
    """Turn an `OSError` about ``path`` into an error with a sentence."""
    try:
        yield
    except OSError as error:
        raise UpscaledError(f"{path}: {error.strerror or error}.") from error


def _make_work_folder(source: Path, target: Path) -> Path:
    """Check both files and create a temporary folder beside the target."""
    try:
        if not source.is_file():
            raise ConfigError(f"There is no file {source}.")
        if target.is_dir():
            raise ConfigError(f"{target} is a folder; name a file.")
        if _exists(target) and target.samefile(source):
            raise ConfigError(f"{target} is the picture itself; name another file for the result.")
        with source.open("rb"):
            pass
        return Path(tempfile.mkdtemp(prefix=".upscaled-", dir=target.absolute().parent))
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}.") from None


def _exists(path: Path) -> bool:
    """Tell whether ``path`` is there.

    Raises:
        OSError: it can't be, since its name is too long, for instance. `Path.exists` returns
            False for that since Python 3.14.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


async def _ended(service: Service, job: Job, on_progress: Callable[[int], None]) -> Job:
    """Wait until the job has ended and return it; report its percentage meanwhile."""
    shown = -1
    async with service.subscribe(job.id) as updates:
        async for update in updates:
            if update.job.progress != shown:
                shown = update.job.progress
                on_progress(shown)
    return await service.job(job.id)
