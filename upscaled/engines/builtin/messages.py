"""What is said between the builtin engine and its worker; loads no heavy library."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.engine import Device, ModelFiles, UpscaleTask
from upscaled.pictures import RawImage, Size
from upscaled.workers import processes
from upscaled.workers.server import Message

WORKER_MODULE = "upscaled.engines.builtin.worker"


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


def worker_arguments(
    device: Device,
    *,
    threads: int,
    memory_limit_mb: int | None = None,
    at_once: int = 1,
    library: CpuLibrary = CpuLibrary.NCNN,
) -> list[str]:
    """Return the command line of the worker for ``device``, after the parent's process id."""
    arguments = ["--device", "cpu" if device.index is None else str(device.index)]
    arguments += ["--threads", str(threads), "--at-once", str(at_once), "--library", library]
    if memory_limit_mb is not None:
        arguments += ["--memory-limit-mb", str(memory_limit_mb)]
    return arguments


def worker_env() -> dict[str, str]:
    """Return the worker's environment.

    Its threads sleep while they wait for one another: spinning, OpenMP's way, costs three times
    the time as soon as anything else wants the processor, and decoding and encoding do.

    The C library asks for huge pages; the worker takes them where there is memory to spare.
    """
    return processes.plain_env(OMP_WAIT_POLICY="passive", GLIBC_TUNABLES="glibc.malloc.hugetlb=1")


def encode_network(files: NetworkFiles) -> dict[str, Any]:
    """Return the ``inspect`` request for a network."""
    return {
        "op": "inspect",
        "param": str(files.param),
        "bin": str(files.bin),
        "input_blob": files.input_blob,
        "output_blob": files.output_blob,
    }


def decode_network(message: Message) -> NetworkFiles:
    """Return the network of an ``inspect`` request."""
    return NetworkFiles(
        Path(message["param"]),
        Path(message["bin"]),
        message["input_blob"],
        message["output_blob"],
    )


def encode_task(task: UpscaleTask) -> dict[str, Any]:
    """Return the ``upscale`` request for ``task``."""
    model = task.model
    return {
        "op": "upscale",
        "source": _encode_image(task.source),
        "target": _encode_image(task.target),
        "top": task.top,
        "bottom": task.bottom,
        "tile_size": task.tile_size,
        "tta": task.tta,
        "shares": task.shares,
        "model": {
            "param": str(model.param),
            "bin": str(model.bin),
            "native_scale": model.native_scale,
            "input_blob": model.input_blob,
            "output_blob": model.output_blob,
            "bytes_per_pixel": model.bytes_per_pixel,
        },
    }


def decode_task(message: Message) -> UpscaleTask:
    """Return the task of an ``upscale`` request."""
    model = dict(message["model"])
    files = ModelFiles(param=Path(model.pop("param")), bin=Path(model.pop("bin")), **model)
    return UpscaleTask(
        source=_decode_image(message["source"]),
        target=_decode_image(message["target"]),
        model=files,
        top=message["top"],
        bottom=message["bottom"],
        tile_size=message["tile_size"],
        tta=message["tta"],
        shares=message["shares"],
    )


def _encode_image(raw: RawImage) -> list[Any]:
    return [str(raw.path), raw.size.width, raw.size.height, raw.channels]


def _decode_image(parts: list[Any]) -> RawImage:
    path, width, height, channels = parts
    return RawImage(Path(path), Size(width, height), channels)
