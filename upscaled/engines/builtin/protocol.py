"""Requests to the worker of the builtin engine, and how it is started; loads no heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled import serial
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.other_programs import STAT
from upscaled.engines.engine import Device, ModelFiles, UpscaleTask
from upscaled.workers.environment import plain_env
from upscaled.workers.server import Message

WORKER_MODULE = "upscaled.engines.builtin.worker"
BUSY = "busy"
"""The error kind of a trial that other programs kept disturbing."""


@dataclass(frozen=True)
class NetworkFiles:
    """What is needed to run a network: its two files and its blobs' names."""

    param: Path
    bin: Path
    input_blob: str
    output_blob: str


@dataclass(frozen=True)
class Findings:
    """What a dry run of a network measured."""

    native_scale: int
    bytes_per_pixel: int
    """Peak memory in bytes for each pixel of a padded tile."""


@dataclass(frozen=True)
class Trial:
    """One method to run a network, to be measured."""

    model: ModelFiles
    library: CpuLibrary
    threads: int
    """That work on one tile; the other cores work on other tiles."""
    compare: bool
    """Compare its pictures with those of ncnn in 32 bits."""
    stat: Path = STAT
    """Tells what other programs take of the processor."""


def worker_arguments(
    device: Device,
    *,
    threads: int,
    memory_limit_mb: int | None = None,
    at_once: int = 1,
    library: CpuLibrary = CpuLibrary.NCNN,
    networks: Path | None = None,
) -> list[str]:
    """Return the command line of the worker for ``device``, after the parent's process id."""
    arguments = ["--device", "cpu" if device.index is None else str(device.index)]
    arguments += ["--threads", str(threads), "--at-once", str(at_once), "--library", library]
    if memory_limit_mb is not None:
        arguments += ["--memory-limit-mb", str(memory_limit_mb)]
    if networks is not None:
        arguments += ["--networks", str(networks)]
    return arguments


def worker_env() -> dict[str, str]:
    """Return the worker's environment.

    Threads sleep while they wait for each other. OpenMP's default of spinning makes them three
    times as slow as soon as another process, such as a decoder, needs the CPU.

    The C library asks for huge pages; the worker allows them where memory suffices.
    """
    return plain_env(OMP_WAIT_POLICY="passive", GLIBC_TUNABLES="glibc.malloc.hugetlb=1")


def encode_network(files: NetworkFiles) -> dict[str, Any]:
    """Return the ``inspect`` request for a network."""
    return {"op": "inspect", "network": serial.plain(files)}


def decode_network(message: Message) -> NetworkFiles:
    """Return the network of an ``inspect`` request."""
    return serial.convert(message["network"], NetworkFiles)


def encode_task(task: UpscaleTask) -> dict[str, Any]:
    """Return the ``upscale`` request for ``task``."""
    return {"op": "upscale", "task": serial.plain(task)}


def decode_task(message: Message) -> UpscaleTask:
    """Return the task of an ``upscale`` request."""
    return serial.convert(message["task"], UpscaleTask)


def encode_trial(trial: Trial) -> dict[str, Any]:
    """Return the ``measure`` request for ``trial``."""
    return {"op": "measure", "trial": serial.plain(trial)}


def decode_trial(message: Message) -> Trial:
    """Return the trial of a ``measure`` request."""
    return serial.convert(message["trial"], Trial)
