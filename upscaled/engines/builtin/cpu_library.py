"""Which library runs networks on the processor; found out without loading any."""

from __future__ import annotations

import functools
import importlib.metadata
from enum import StrEnum
from pathlib import Path

from upscaled.errors import ConfigError


class CpuLibrary(StrEnum):
    """A library that runs networks, and what it calculates with where there is a choice."""

    NCNN = "ncnn"
    OPENVINO = "openvino"
    """In 32 bits."""
    OPENVINO_BF16 = "openvino-bf16"
    """In bfloat16 where that makes no visible difference."""

    @property
    def package(self) -> str:
        """The name of its package."""
        return self.value.removesuffix("-bf16")

    @property
    def next_best(self) -> CpuLibrary:
        """What runs a network that this one can't run."""
        return CpuLibrary.OPENVINO if self is CpuLibrary.OPENVINO_BF16 else CpuLibrary.NCNN

    def with_version(self) -> str:
        """Return its name and version, for people and receipts; blocking."""
        return _with_version(self)


def choose_library(wanted: str, cpuinfo: Path = Path("/proc/cpuinfo")) -> CpuLibrary:
    """Return the library that the setting ``upscaler.cpu_library`` comes to on this machine.

    ``auto`` takes OpenVINO where it is installed and the processor has AVX-512: there it was
    measured to be quicker (docs/engines.md). It convolves directly, ncnn saves multiplications,
    which pays the more the slower those are; on ARM ncnn has code of its own. It takes bfloat16
    where the processor has AMX for it; AVX-512's was measured to be slower than 32 bits.

    Raises:
        ConfigError: OpenVINO is demanded and not installed.
    """
    installed = _is_installed("openvino")
    if wanted != "auto":
        library = CpuLibrary(wanted)
        if library is not CpuLibrary.NCNN and not installed:
            raise ConfigError(
                f"upscaler.cpu_library is '{wanted}', for which OpenVINO is not installed; install "
                "it into the service's environment (pip install openvino), or set "
                "upscaler.cpu_library to auto."
            )
        return library
    flags = _flags(cpuinfo)
    if not installed or "avx512f" not in flags:
        return CpuLibrary.NCNN
    return CpuLibrary.OPENVINO_BF16 if "amx_bf16" in flags else CpuLibrary.OPENVINO


@functools.cache  # what was loaded stays, whatever is installed meanwhile
def _with_version(library: CpuLibrary) -> str:
    name = "ncnn" if library is CpuLibrary.NCNN else "OpenVINO"
    bits = " in bfloat16" if library is CpuLibrary.OPENVINO_BF16 else ""
    return f"{name} {importlib.metadata.version(library.package)}{bits}"


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def _flags(cpuinfo: Path) -> frozenset[str]:
    try:
        lines = cpuinfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return frozenset()
    return frozenset(
        flag for line in lines if line.startswith("flags") for flag in line.split()[2:]
    )
