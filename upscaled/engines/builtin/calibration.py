"""Calibration of one network: all methods to run it are measured, each in a process of its own."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from upscaled import serial
from upscaled.engines.builtin.choice import Pace, Table
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.other_programs import STAT
from upscaled.engines.builtin.protocol import (
    BUSY,
    WORKER_MODULE,
    Trial,
    encode_trial,
    worker_arguments,
    worker_env,
)
from upscaled.engines.engine import CPU, ModelFiles
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import WorkerError, WorkerRefusedError

log = logging.getLogger(__name__)

_TRIAL_SECONDS = 120.0
"""A method that takes longer is none."""


class BusyError(Exception):
    """Other programs keep the processor busy. Calibration can continue from here later."""


@dataclass(frozen=True)
class _Found:
    """The reply to a trial."""

    paces: tuple[Pace, ...]
    decibels: dict[str, float] = field(default_factory=dict)


class Calibration:
    """Measures the methods of one network. After an interruption it continues with the next method.

    Args:
        model: the network.
        libraries: those to try.
        cores: threads of the engine.
        memory_mb: MiB that the measuring process may hold; None: half of the machine's.
        stat: tells what other programs take of the processor.
    """

    def __init__(
        self,
        model: ModelFiles,
        libraries: Sequence[CpuLibrary],
        cores: int,
        memory_mb: int | None,
        stat: Path = STAT,
    ) -> None:
        self._cores = cores
        self._memory_mb = memory_mb
        self._left = [
            Trial(model, library, threads, compare=threads == cores, stat=stat)
            for library in libraries
            for threads in sorted({1, cores}, reverse=True)
        ]
        self.table = Table(model.stem, unmeasured=len(self._left))
        """What was measured so far."""

    async def run(self) -> Table:
        """Measure what is left, then return the table. Cancelling kills the measuring process.

        Raises:
            BusyError: nothing can be measured now.
        """
        while self._left:
            trial = self._left[0]
            library = trial.library
            if trial.compare or self.table.holds(library):
                try:
                    found = await self._measure(trial)
                except (WorkerError, WorkerRefusedError, TimeoutError) as error:
                    if isinstance(error, WorkerRefusedError) and error.kind == BUSY:
                        raise BusyError from None
                    reason = str(error) or f"no result within {_TRIAL_SECONDS:g} s"
                    log.info(
                        "a method to run a network can't be used",
                        extra={"model": self.table.name, "library": library, "reason": reason},
                    )
                    self._add(failures={**self.table.failures, library: reason})
                else:
                    self._add(paces=(*self.table.paces, *found.paces))
                    if found.decibels:
                        self._add(decibels={**self.table.decibels, library: found.decibels})
            del self._left[0]
            self._add(unmeasured=len(self._left))
        return self.table

    def _add(self, **changes: object) -> None:
        self.table = dataclasses.replace(self.table, **changes)  # type: ignore[arg-type]

    async def _measure(self, trial: Trial) -> _Found:
        # A process for each trial: memory is measured, and one that crashes takes no other along.
        worker = WorkerClient(
            WORKER_MODULE,
            name="calibration",
            arguments=worker_arguments(
                CPU,
                threads=self._cores,
                memory_limit_mb=self._memory_mb,
                library=trial.library,
            ),
            env=worker_env(),
        )
        try:
            reply = await worker.request(encode_trial(trial), timeout=_TRIAL_SECONDS)
        finally:
            await asyncio.shield(worker.close())
        return serial.convert(reply, _Found)
