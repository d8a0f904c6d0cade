"""`Imaging`: the server's side of the imaging processes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from upscaled.errors import (
    EngineError,
    NoMemoryError,
    NoSpaceError,
    NotAPictureError,
    UnusablePictureError,
    UpscaledError,
)
from upscaled.formats import INPUT_NAMES
from upscaled.imaging.records import (
    DEFAULT_MEMORY_MB,
    NOTHING_WRITTEN,
    TRUSTED_LIMIT,
    Band,
    Finished,
    FinishOptions,
    Prepared,
    Probe,
    UnlikeError,
    Written,
    raw_to_json,
)
from upscaled.imaging.sandbox.sandbox import Confinement
from upscaled.pictures import RawImage, Size
from upscaled.workers.client import WorkerClient, WorkerDiedError, WorkerRefusedError
from upscaled.workers.processes import plain_env
from upscaled.workers.server import Message

_CPU_SECONDS = 60
_CPU_SECONDS_PER_PIXEL = 1e-6
"""Ten times what writing a pixel of a PNG takes on a slow core."""
_SOON_PIXELS = 1 << 20
_SOON_SECONDS = 2
"""Pictures of so few pixels, decoded in so little processor time, are prepared on arrival."""
_SMALL_PIXELS = 1 << 20
"""Results of so few pixels are written in less time than it takes to start a process."""
_MOST_THREADS = 4
"""That write a result at a time; more wait for the disk."""
_WALL_PER_CPU = 10
"""How much longer than its processor time a request may take on a busy machine."""

_ERRORS: dict[str, type[UpscaledError]] = {
    "not_a_picture": NotAPictureError,
    "unusable": UnusablePictureError,
    "unlike": UnlikeError,
    "engine": EngineError,
    "no_memory": NoMemoryError,
    "no_space": NoSpaceError,
}


class Imaging:
    """Decodes uploads and writes results in a pool of resident, confined processes.

    Args:
        workers: how many processes decode and write, at most; one more is kept for what is done
            quickly, so that it never waits for that. Each is started when it is first needed.
        formats: which of `formats.INPUT_NAMES` are taken.
        max_pixels: the largest picture that is taken.
        memory_limit_mb: address space of one process in MiB.
        cpu_seconds: processor time for reading one picture, before it counts as a trap.
    """

    def __init__(
        self,
        *,
        workers: int = 1,
        formats: Collection[str] = INPUT_NAMES,
        max_pixels: int,
        memory_limit_mb: int = DEFAULT_MEMORY_MB,
        cpu_seconds: int = _CPU_SECONDS,
    ) -> None:
        settings = {
            "formats": sorted(formats),
            "max_pixels": max_pixels,
            "memory_limit_mb": memory_limit_mb,
            "threads": min(_MOST_THREADS, os.cpu_count() or 1),
        }
        self._cpu_seconds = cpu_seconds
        # Thread pools that nobody needs would take the bounded address space.
        env = plain_env(OPENBLAS_NUM_THREADS="1", MALLOC_ARENA_MAX="2")
        self._workers = [
            WorkerClient(
                "upscaled.imaging.worker",
                name="imaging",
                arguments=[json.dumps(settings)],
                env=env,
            )
            for _ in range(workers + 1)
        ]
        # The worker used last is taken first: its memory is warm, the others need not start.
        self._idle: asyncio.LifoQueue[WorkerClient] = asyncio.LifoQueue()
        for worker in self._workers[1:]:
            self._idle.put_nowait(worker)
        self._quick: asyncio.LifoQueue[WorkerClient] = asyncio.LifoQueue()
        self._quick.put_nowait(self._workers[0])

    async def warm(self) -> Confinement:
        """Start one process, so that the first picture need not wait; return what confines it.

        Raises:
            EngineError: no such process can be started.
        """
        reply = await self._request({"do": "ping"}, self._cpu_seconds, quick=True)
        return Confinement(tuple(reply["active"]), tuple(reply["lacking"]))

    async def probe(self, upload: Path) -> Probe:
        """Read the header of ``upload``.

        Raises:
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: broken, animated, of several pages, or of too many pixels.
        """
        message = {"do": "probe", "upload": str(upload)}
        reply = await self._request(message, self._cpu_seconds, [upload], quick=True)
        return _probe_of(reply)

    async def receive(self, upload: Path, workdir: Path) -> tuple[Probe, Prepared | None]:
        """Read the header of ``upload``; decode it too, into ``workdir``, if that is soon done.

        A process costs more than a thumbnail's decoding, so the two share one. What can't be
        decoded is only told by `prepare`.

        Raises:
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: broken, animated, of several pages, or of too many pixels.
        """
        message = {
            "do": "probe",
            "upload": str(upload),
            "workdir": str(workdir),
            "most_pixels": _SOON_PIXELS,
        }
        try:
            reply = await self._request(message, _SOON_SECONDS, [upload], quick=True)
        except NotAPictureError:
            raise
        except UpscaledError:  # a broken header, or a picture made to keep its decoder busy
            return await self.probe(upload), None
        prepared = reply["prepared"] and Prepared.from_json(reply["prepared"])
        return _probe_of(reply), prepared

    async def prepare(self, upload: Path, workdir: Path) -> Prepared:
        """Decode ``upload`` into files in ``workdir``.

        Raises:
            NotAPictureError: it is of no format that is taken.
            UnusablePictureError: it does not decode completely, or only with more time or
                memory than a picture may use.
            NoSpaceError: the disk is full.
        """
        message = {"do": "prepare", "upload": str(upload), "workdir": str(workdir)}
        reply = await self._request(message, self._cpu_seconds, [upload])
        return Prepared.from_json(reply["prepared"])

    async def check(
        self,
        source: RawImage,
        native: RawImage,
        top: int,
        bottom: int,
        *,
        limit: float = TRUSTED_LIMIT,
    ) -> float:
        """Compare rows of ``source`` with what ``native`` has there; return their score.

        Args:
            source: the prepared picture.
            native: what an engine made of it.
            top: the first row of the source to compare.
            bottom: the row after the last.
            limit: how much they may differ: `TRUSTED_LIMIT`, or `PLAUSIBLE_LIMIT`.

        Raises:
            UnlikeError: it is not the enlarged source.
        """
        message = {
            "do": "check",
            "source": raw_to_json(source),
            "native": raw_to_json(native),
            "top": top,
            "bottom": bottom,
            "limit": limit,
        }
        reads = [source.path, native.path]
        seconds = self._writing_seconds(native.size.pixels)
        reply = await self._request(message, seconds, reads, quick=True)
        score: float = reply["score"]
        return score

    async def finish(
        self,
        prepared: Prepared,
        native: RawImage,
        workdir: Path,
        options: FinishOptions,
        band: Band,
        written: Written = NOTHING_WRITTEN,
    ) -> Written:
        """Verify a band of ``native`` and write what it adds to the result.

        With the last band ``workdir/result.<format>`` is complete, and was read back.

        Args:
            prepared: the picture.
            native: its enlargement, whose rows up to the band's end are there.
            workdir: the job's folder.
            options: how the result is to be written.
            band: begins where the last one ended.
            written: what came of the bands before.

        Raises:
            UnlikeError: the band is not the enlarged source.
            EngineError: the result could not be written, or not as it was meant.
            NoSpaceError: memory or disk do not suffice.
        """
        pixels = max(native.size.pixels, options.size.pixels)
        message = {
            "do": "finish",
            "prepared": prepared.to_json(),
            "native": raw_to_json(native),
            "workdir": str(workdir),
            "options": options.to_json(),
            "band": [band.top, band.bottom, band.limit],
            "written": written.to_json(),
            # No profile, no EXIF: nothing of the upload but its decoded pixels takes part.
            "own_pixels_only": prepared.sidecar is None and pixels <= _SMALL_PIXELS,
        }
        beside = (prepared.alpha and prepared.alpha.path, prepared.sidecar)
        reads = [prepared.source.path, native.path, *(path for path in beside if path)]
        reply = await self._request(message, self._writing_seconds(pixels), reads)
        finished = reply["finished"] and Finished.from_json(reply["finished"])
        return replace(Written.from_json(reply["written"]), finished=finished)

    async def close(self) -> None:
        """End every process, each after the request it is at."""
        await asyncio.gather(*(worker.close() for worker in self._workers))

    def _writing_seconds(self, pixels: int) -> int:
        return self._cpu_seconds + int(pixels * _CPU_SECONDS_PER_PIXEL)

    async def _request(
        self,
        message: dict[str, Any],
        cpu_seconds: int,
        reads: Collection[Path] = (),
        *,
        quick: bool = False,
    ) -> dict[str, Any]:
        """Send ``message`` to a free process, for which it may read the files ``reads``."""
        wall_seconds = cpu_seconds * _WALL_PER_CPU
        async with self._free_worker(quick=quick) as worker:
            try:
                return await worker.request(
                    {
                        **message,
                        "cpu_seconds": cpu_seconds,
                        "reads": [str(path.absolute()) for path in reads],
                    },
                    timeout=wall_seconds,
                )
            except WorkerRefusedError as error:
                raise _ERRORS[error.kind](error.message) from error
            except TimeoutError as error:
                raise EngineError(
                    f"The imaging process gave no answer within {wall_seconds} s."
                ) from error
            except WorkerDiedError as error:
                raise EngineError(f"While a picture was being handled, {error}.") from error

    @asynccontextmanager
    async def _free_worker(self, *, quick: bool) -> AsyncIterator[WorkerClient]:
        # What is quick uses the others too while one has nothing to do: it is likely warm.
        idle = self._quick if quick and self._idle.empty() else self._idle
        worker = await idle.get()
        try:
            yield worker
        finally:
            idle.put_nowait(worker)


def _probe_of(reply: Message) -> Probe:
    return Probe(reply["format"], Size(reply["width"], reply["height"]), reply["has_alpha"])
