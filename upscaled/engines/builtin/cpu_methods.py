"""The measured methods to run networks on this machine, remembered across restarts."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import statistics
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from upscaled import files, serial
from upscaled.engines import memory
from upscaled.engines.builtin import choice, cpu_library, processor
from upscaled.engines.builtin.choice import Table
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.engine import ModelFiles, is_small
from upscaled.pictures import Size

log = logging.getLogger(__name__)

_FORMAT = 2
"""Increase it when measurements change; older files are then ignored."""
_TABLES = 64
"""Networks whose measurements are kept; the one measured longest ago is removed first."""
_WANTED = 16
"""Networks that wait to be measured; more are left until they are used again."""
_JOBS = 3
"""Number of jobs in a row that must contradict a measurement before it is repeated."""
_FAR = 1.6
"""Jobs take up to this many times what was measured, since they share the processors with decoding
and encoding."""
_NEAR = 0.75
"""If jobs take less than this share of the measured time, the measurement was disturbed."""


@dataclass(frozen=True)
class Machine:
    """What measurements depend on: on another machine they are made again."""

    processor: str
    flags: str
    """Those that decide which libraries can be used."""
    cores: int
    memory_gib: int
    libraries: tuple[str, ...]
    """With their versions."""
    memory_limit_mb: int
    """The setting; 0: none."""
    usable: tuple[str, ...] = ()
    """Names of the libraries that can run networks, with their precision."""


def this_machine(threads: int, memory_limit_mb: int) -> Machine:
    """Return the description of this machine; blocking.

    Args:
        threads: of the engine.
        memory_limit_mb: the setting.
    """
    return Machine(
        processor.name(),
        " ".join(sorted(processor.flags() & processor.FOR_NETWORKS)),
        threads,
        round(memory.ceiling(None) / (1 << 29)),  # the ceiling is half of the memory
        cpu_library.versions(),
        memory_limit_mb,
        tuple(one.value for one in cpu_library.possible_libraries()),
    )


@dataclass(frozen=True)
class _Document:
    """The content of the file."""

    format: int
    machine: Machine
    networks: dict[str, Table] = field(default_factory=dict)


class CpuMethods:
    """Knows the best method to run each network that was measured.

    Args:
        file: where measurements are kept; None: nowhere.
        machine: this one; None: nothing is measured or chosen, the engine's rule holds.
    """

    def __init__(self, file: Path | None = None, machine: Machine | None = None) -> None:
        self._file = file
        self._machine = machine
        self._tables: OrderedDict[str, Table] = OrderedDict()
        self._chosen: dict[str, tuple[CpuMethod | None, CpuMethod | None]] = {}
        self._keys: dict[Path, str] = {}
        self.wanted: OrderedDict[str, ModelFiles] = OrderedDict()
        """Networks that were used and are to be measured, by key."""
        self._ratios: dict[str, deque[float]] = {}
        self._usual: dict[str, float] = {}
        """By how much jobs differed when a network was measured again."""

    @property
    def used(self) -> bool:
        """Whether methods are chosen at all."""
        return self._machine is not None

    @property
    def tables(self) -> Mapping[str, Table]:
        """What was measured, by the network's key."""
        return self._tables

    async def load(self) -> None:
        """Read the file; one that is unreadable or of another machine counts as empty."""
        if self._file is not None and self._machine is not None:
            found = await asyncio.to_thread(_read, self._file, self._machine)
            self._tables = OrderedDict(found)
            self._chosen = {key: _choices(table) for key, table in found.items()}

    def meet(self, model: ModelFiles, key: str) -> None:
        """Register the key of a network's files; request a measurement if there is none."""
        if self._machine is None:
            return
        self._keys[model.param] = key
        table = self._tables.get(key)
        if table is None or not table.final:
            self._want(key, model)

    def _want(self, key: str, model: ModelFiles) -> None:
        if key in self.wanted or len(self.wanted) < _WANTED:
            self.wanted[key] = model

    async def observe(self, model: ModelFiles, seconds_per_pixel: float) -> None:
        """Compare a job with what was measured; after several that differ, measure again.

        Args:
            model: the network, which was met.
            seconds_per_pixel: engine time of a large picture in the chosen method, for each padded
                pixel.
        """
        key = self._keys.get(model.param, "")
        expected = self.pace(model)
        if expected is None or self._tables[key].doubt:
            return
        ratios = self._ratios.setdefault(key, deque(maxlen=_JOBS))
        ratios.append(seconds_per_pixel / expected / self._usual.get(key, 1.0))
        if len(ratios) < _JOBS or not (min(ratios) > _FAR or max(ratios) < _NEAR):
            return
        # If jobs still differ as much after that, the jobs are the cause.
        doubt = statistics.median(ratios) * self._usual.get(key, 1.0)
        self._usual[key] = doubt
        del self._ratios[key]
        log.info(
            "a network is measured again, since jobs differ",
            extra={"model": model.stem, "ratio": round(doubt, 2)},
        )
        self._want(key, model)
        await self._store(key, dataclasses.replace(self._tables[key], doubt=round(doubt, 2)))

    def of(self, model: ModelFiles, picture: Size, *, fast: bool = False) -> CpuMethod | None:
        """Return the best method to run a network that was met; None: not measured.

        Args:
            model: the network.
            picture: the source's size.
            fast: the caller accepts `choice.FAST_DB`. Until the network is measured, bfloat16 is
                taken where the processor has it; the worker compares its pictures.
        """
        key = self._keys.get(model.param, "")
        if fast and self._machine is not None:
            table = self._tables.get(key)
            if table is not None and not table.unmeasured:
                method = choice.choose_fast(table)
                small_one = method is not None and is_small(picture)
                return dataclasses.replace(method, tile=0) if method and small_one else method
            has_bf16 = CpuLibrary.OPENVINO_BF16.value in self._machine.usable
            return (
                CpuMethod(CpuLibrary.OPENVINO_BF16, measured=False, fast=True) if has_bf16 else None
            )
        large, small = self._chosen.get(key, (None, None))
        return small if is_small(picture) else large

    def known(self, key: str) -> bool:
        """Return whether all methods of a network were measured, even if provisionally."""
        table = self._tables.get(key)
        return table is not None and not table.unmeasured

    def best(self, key: str) -> CpuMethod | None:
        """Return the best method to run a measured network on large pictures."""
        return self._chosen.get(key, (None, None))[0]

    def pace(self, model: ModelFiles) -> float | None:
        """Return the seconds that a network that was met takes for each padded pixel; None: not
        measured.
        """
        table = self._tables.get(self._keys.get(model.param, ""))
        return None if table is None else choice.quickest(table)

    async def put(self, key: str, table: Table) -> None:
        """Remember the measurements of a network; it stays wanted if some are missing."""
        self._ratios.pop(key, None)
        if table.final:
            self.wanted.pop(key, None)
        await self._store(key, table)

    async def _store(self, key: str, table: Table) -> None:
        self._tables[key] = table
        self._tables.move_to_end(key)
        while len(self._tables) > _TABLES:
            oldest, _ = self._tables.popitem(last=False)
            for known in (self._chosen, self._ratios, self._usual):
                known.pop(oldest, None)
        self._chosen[key] = _choices(table)
        if self._file is not None and self._machine is not None:
            document = _Document(_FORMAT, self._machine, dict(self._tables))
            await asyncio.to_thread(_write, self._file, document)


def key_of(param_sha256: str, bin_sha256: str) -> str:
    """Return the key of a network."""
    return f"{param_sha256} {bin_sha256}"


def _choices(table: Table) -> tuple[CpuMethod | None, CpuMethod | None]:
    return choice.choose(table), choice.choose_for_small(table)


def _read(file: Path, machine: Machine) -> dict[str, Table]:
    try:
        document = serial.decode(file.read_bytes(), _Document)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        log.warning("%s can't be read (%s); networks are measured again.", file, error)
        return {}
    if document.format != _FORMAT or document.machine != machine:
        return {}
    return document.networks


def _write(file: Path, document: _Document) -> None:
    try:
        files.make_folder(file.parent)
        files.replace(file, serial.encode(document))
    except OSError as error:
        # Without it the next start measures again; nothing else is lost.
        log.warning("%s can't be written: %s.", file, error.strerror)
