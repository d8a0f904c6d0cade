"""Pixel keys: places with the same one make the same bytes, on whichever machine they are."""

from __future__ import annotations

from collections.abc import Iterable

from upscaled import files
from upscaled.engines.builtin import cpu_library, processor
from upscaled.engines.engine import CPU, DeviceKind
from upscaled.engines.pool import Place
from upscaled.engines.selection import EngineChoice


def pixel_keys(choice: EngineChoice, places: Iterable[Place]) -> dict[Place, str]:
    """Return a text for each place: what its pixels depend on besides network, tiles and method.

    Another model of GPU, other instructions of the processor or another version of a library may
    change the last bit of a sample. Blocking.

    Args:
        choice: the engine of this machine.
        places: of this machine.

    Raises:
        OSError: the native program can't be read.
    """
    return {place: _pixel_key(choice, place) for place in places}


def _pixel_key(choice: EngineChoice, place: Place) -> str:
    device = place.device
    parts = [place.engine, device.kind, device.name]
    if choice.program is not None and place.engine == choice.engine:
        parts.append(files.sha256_of(choice.program.path))
    else:
        parts += cpu_library.versions()
    if device == CPU:
        parts.append(choice.library)
    if device.kind in {DeviceKind.CPU, DeviceKind.SOFTWARE}:
        parts += [processor.name(), *sorted(processor.flags() & processor.FOR_NETWORKS)]
    return "; ".join(parts)
