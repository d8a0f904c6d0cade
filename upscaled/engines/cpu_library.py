"""Which library runs networks on the processor; found out without loading any."""

from __future__ import annotations

import functools
import importlib.metadata
from enum import StrEnum
from pathlib import Path

from upscaled.errors import ConfigError


class CpuLibrary(StrEnum):
    """A library that runs networks; the value is the name of its package."""

    NCNN = "ncnn"
    OPENVINO = "openvino"

    def with_version(self) -> str:
        """Return its name and version, for people and receipts; blocking."""
        return _with_version(self)


def choose_library(wanted: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> CpuLibrary:
    """Return the library that the setting ``upscaler.cpu_library`` comes to on this machine.

    ``auto`` takes OpenVINO where it is installed and the processor has AVX-512: there it was
    measured to be quicker (docs/engines.md). It convolves directly, ncnn saves multiplications,
    which pays the more the slower those are; on ARM ncnn has code of its own.

    Raises:
        ConfigError: OpenVINO is demanded and not installed.
    """
    installed = _is_installed("openvino")
    if wanted == "openvino" and not installed:
        raise ConfigError(
            "upscaler.cpu_library is 'openvino', which is not installed; install it into the "
            "service's environment (pip install openvino), or set upscaler.cpu_library to auto."
        )
    if wanted == "openvino" or (wanted == "auto" and installed and _has_avx512(cpuinfo)):
        return CpuLibrary.OPENVINO
    return CpuLibrary.NCNN


@functools.cache  # what was loaded stays, whatever is installed meanwhile
def _with_version(library: CpuLibrary) -> str:
    name = {CpuLibrary.NCNN: "ncnn", CpuLibrary.OPENVINO: "OpenVINO"}[library]
    return f"{name} {importlib.metadata.version(library.value)}"


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _has_avx512(cpuinfo: Path) -> bool:
    try:
        lines = cpuinfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return False
    return any("avx512f" in line.split() for line in lines if line.startswith("flags"))
