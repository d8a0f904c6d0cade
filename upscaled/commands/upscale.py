"""One picture without a server: the same pipeline, with a data folder of its own."""

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

    ``target`` appears complete or not at all; a file of that name is replaced. Its suffix is
    the result's format where ``fields`` names none.

    Args:
        config: the settings; of ``storage``, only what is known of the models is used.
        source: the picture, left as it is.
        target: the result.
        fields: as in a request to the server, ``image`` left out.
        on_progress: called with the percentage whenever it has changed.

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
                f"The format is {named}, but the result's name ends in .{suffix}; make them alike."
            )
    folder = await asyncio.to_thread(_make_workplace, source, target)
    try:
        # Beside the target, so that the result is renamed into place, not copied.
        storage = dataclasses.replace(config.storage, data_dir=str(folder))
        # Nothing to wait for: the job has ended, or nobody wants it any more.
        server = dataclasses.replace(config.server, drain_seconds=0)
        service = Service(
            dataclasses.replace(config, storage=storage, server=server),
            models_cache=config.models_cache,
        )
        await service.start()
        try:
            upload = service.intake.reserve_upload()
            with _told(source):
                await asyncio.to_thread(shutil.copyfile, source, upload)
            job = await service.intake.submit(fields, upload, source.name)
            job = await _ended(service, job, on_progress)
            if job.state is not JobState.COMPLETED:
                raise EngineError(job.error or f"The job was {job.state}.")
            result = await service.result(job.id)
            with _told(target):
                await asyncio.to_thread(result.path.replace, target)
        finally:
            await service.stop()
    finally:
        with _told(folder):
            await asyncio.to_thread(shutil.rmtree, folder)
    return job


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Make of what the system says of ``path`` a sentence."""
    try:
        yield
    except OSError as error:
        raise UpscaledError(f"{path}: {error.strerror or error}.") from error


def _make_workplace(source: Path, target: Path) -> Path:
    """Check both files and make a folder beside the target."""
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
    """Wait for the job's end and pass its progress on."""
    shown = -1
    async with service.subscribe(job.id) as updates:
        async for update in updates:
            job = update.job
            if job.progress != shown:
                shown = job.progress
                on_progress(shown)
    return job
