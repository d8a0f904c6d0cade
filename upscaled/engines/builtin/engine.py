"""The builtin engine: a resident process on ncnn or OpenVINO, the model kept loaded."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.messages import (
    WORKER_MODULE,
    encode_task,
    worker_arguments,
    worker_env,
)
from upscaled.engines.engine import (
    Device,
    Progress,
    ProgressCallback,
    UpscaleOutcome,
    UpscaleTask,
)
from upscaled.errors import EngineError
from upscaled.workers.client import WorkerClient, WorkerDiedError, WorkerRefusedError
from upscaled.workers.server import Message

log = logging.getLogger(__name__)

_HOPELESS = frozenset({"bad_model", "no_device", "too_little_memory"})
"""What no other tile size changes."""


class BuiltinEngine:
    """Inference on ``device`` in a process of its own, which the first task starts.

    Args:
        threads: CPU threads of the network; 0: one a core.
        memory_limit_mb: MiB that the process may hold; tiles are chosen to keep to it. None:
            half of what the machine or its control group has free.
        stall_seconds: a task that finishes no tile for so long fails, and its process is ended;
            None: no limit.
        at_once: how many tasks may be under way.
        library: what runs networks on the CPU, if it can.
    """

    name = "builtin"
    program: Path | None = None

    def __init__(
        self,
        device: Device,
        *,
        threads: int = 0,
        memory_limit_mb: int | None = None,
        stall_seconds: float | None = None,
        at_once: int = 1,
        library: CpuLibrary = CpuLibrary.NCNN,
    ) -> None:
        self.device = device
        self._stall = stall_seconds
        self._clock = _SharedClock()
        self._waiting: set[asyncio.Timeout] = set()
        self._worker = WorkerClient(
            WORKER_MODULE,
            name=f"builtin engine ({device.id})",
            arguments=worker_arguments(
                device,
                threads=threads,
                memory_limit_mb=memory_limit_mb,
                at_once=at_once,
                library=library,
            ),
            env=worker_env(),
            at_once=at_once,
        )

    @property
    def pid(self) -> int | None:
        """Process id of the worker, None while there is none."""
        return self._worker.pid

    async def upscale(self, task: UpscaleTask, on_progress: ProgressCallback) -> UpscaleOutcome:
        """Do ``task``; see `Engine.upscale`. A cancellation kills the worker at once.

        Raises:
            EngineError: the network can't be loaded or run, or the worker died.
        """
        under_way = _UnderWay(self._clock)

        def waits() -> None:
            under_way.ended()
            self._waiting.add(stalled)
            self._alive()

        def on_event(event: Message) -> None:
            if "note" in event:
                log.warning("%s", event["note"])
                waits()  # for room, as another network
                return
            self._waiting.discard(stalled)
            self._alive(stalled)
            if "begun" in event:
                under_way.begun()
                return
            share = event["done"] / event["of"]
            on_progress(Progress(share, event["rows"], event["tile"], event["library"]))

        try:
            async with asyncio.timeout(self._stall) as stalled:
                self._waiting.add(stalled)
                reply = await self._worker.request(
                    encode_task(task), on_event=on_event, on_put_back=waits
                )
        except TimeoutError:
            raise EngineError(
                f"The builtin engine finished no tile for {self._stall:g} seconds."
            ) from None
        except WorkerRefusedError as error:
            raise EngineError(error.message, retryable=error.kind not in _HOPELESS) from None
        except WorkerDiedError as error:
            sentence = str(error)
            raise EngineError(sentence[:1].upper() + sentence[1:].rstrip(".") + ".") from None
        finally:
            self._waiting.discard(stalled)
            under_way.ended()
            self._alive()
        return UpscaleOutcome(tile_size=int(reply["tile_size"]), seconds=under_way.seconds)

    def _alive(self, *working: asyncio.Timeout) -> None:
        """Take note of a sign of life, which is one for those as well that wait for their turn."""
        if self._stall is None:
            return
        deadline = asyncio.get_running_loop().time() + self._stall
        for stalled in {*working, *self._waiting}:
            if not stalled.expired():
                stalled.reschedule(deadline)

    def max_rows(self, width: int, scale: int) -> int:
        """Return how many rows one task may have: any number, tiles are read one by one."""
        return 1 << 31

    async def reset(self) -> None:
        """End the worker; the next task starts a fresh one."""
        await self._worker.close()

    async def close(self) -> None:
        """End the worker, after the task in progress if there is one."""
        await self._worker.close()


class _UnderWay:
    """What one task takes of the shared clock: from its beginning to its end, waits excluded."""

    def __init__(self, clock: _SharedClock) -> None:
        self._clock = clock
        self._started: float | None = None
        self.seconds = 0.0
        """Of the last time that it was under way."""

    def begun(self) -> None:
        """It is being worked on."""
        if self._started is None:
            self._started = self._clock.begin()

    def ended(self) -> None:
        """It is not any more, be it done or to begin anew."""
        if self._started is not None:
            self.seconds = self._clock.end() - self._started
            self._started = None


class _SharedClock:
    """A clock that goes at an n-th of its speed while n tasks are under way."""

    def __init__(self) -> None:
        self._shown = 0.0
        self._looked = 0.0
        self._tasks = 0

    def begin(self) -> float:
        """Count one task more; return the seconds that are shown."""
        self._look()
        self._tasks += 1
        return self._shown

    def end(self) -> float:
        """Count one task less; return the seconds that are shown."""
        self._look()
        self._tasks -= 1
        return self._shown

    def _look(self) -> None:
        now = time.monotonic()
        if self._tasks:
            self._shown += (now - self._looked) / self._tasks
        self._looked = now
