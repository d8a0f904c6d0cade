"""The engine with one of the libraries for the CPU, and what it says that it used."""

from __future__ import annotations

from pathlib import Path

from testkit.networks import (
    make_task,
    result,
)
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.builtin.network import (
    Pixels,
)
from upscaled.engines.builtin.protocol import NetworkFiles
from upscaled.engines.engine import CPU, ModelFiles


def files_of(model: ModelFiles) -> NetworkFiles:
    return NetworkFiles(model.param, model.bin, model.input_blob, model.output_blob)


async def enlarge(
    task_folder: Path,
    pixels: Pixels,
    model: ModelFiles,
    library: CpuLibrary = CpuLibrary.OPENVINO,
) -> tuple[Pixels, str]:
    """Return what an engine that prefers a library makes, and the one that it says it used."""
    task = make_task(task_folder, pixels, model)
    engine = BuiltinEngine(CPU, threads=2, library=library)
    used: set[str | None] = set()
    try:
        await engine.upscale(task, lambda progress: used.add(progress.library))
    finally:
        await engine.close()
    (told,) = used
    assert told is not None
    return result(task), told
