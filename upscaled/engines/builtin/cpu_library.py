"""Which library runs networks on the CPU; decided without loading one."""

from __future__ import annotations

import functools
import importlib.metadata
from enum import StrEnum
from pathlib import Path

from upscaled.engines.builtin import processor
from upscaled.errors import ConfigError


class CpuLibrary(StrEnum):
    """A library that runs networks, and its precision where there is a choice."""

    NCNN = "ncnn"
    OPENVINO = "openvino"
    """In 32-bit floats."""
    OPENVINO_BF16 = "openvino-bf16"
    """In bfloat16 where this makes no visible difference."""

    @property
    def package(self) -> str:
        """The Python package."""
        return self.value.removesuffix("-bf16")

    @property
    def fallback(self) -> CpuLibrary:
        """The library to use for a network that this one can't run."""
        return CpuLibrary.OPENVINO if self is CpuLibrary.OPENVINO_BF16 else CpuLibrary.NCNN

    def with_version(self) -> str:
        """Return name and version, for logs and receipts; blocking."""
        return _with_version(self)


def choose_library(wanted: str, cpuinfo: Path = processor.CPUINFO) -> CpuLibrary:
    """Return the library for the setting ``upscaler.cpu_library`` on this machine.

    ``auto`` is a rule that holds until the network was measured here (`upscaled.engines.builtin.
    choice`): OpenVINO where it is installed and the processor has AVX-512, else ncnn, whose
    Winograd convolutions need fewer multiplications and which is optimised for ARM; bfloat16 with
    AMX.

    Args:
        wanted: the setting's value.
        cpuinfo: where the processor's flags are read.

    Raises:
        ConfigError: the setting asks for OpenVINO, which is not installed.
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
    flags = processor.flags(cpuinfo)
    if not installed or "avx512f" not in flags:
        return CpuLibrary.NCNN
    return CpuLibrary.OPENVINO_BF16 if "amx_bf16" in flags else CpuLibrary.OPENVINO


def possible_libraries(cpuinfo: Path = processor.CPUINFO) -> tuple[CpuLibrary, ...]:
    """Return the libraries that can run networks on this machine; blocking.

    bfloat16 is left out where the processor would only emulate it.
    """
    libraries = [CpuLibrary.NCNN]
    if _is_installed("openvino"):
        libraries.append(CpuLibrary.OPENVINO)
        if processor.flags(cpuinfo) & {"avx512_bf16", "amx_bf16"}:
            libraries.append(CpuLibrary.OPENVINO_BF16)
    return tuple(libraries)


def versions() -> tuple[str, ...]:
    """Return the names and versions of the libraries that are installed; blocking."""
    names = ("ncnn", "openvino")
    return tuple(
        f"{name} {importlib.metadata.version(name)}" for name in names if _is_installed(name)
    )


@functools.cache  # a library that is loaded stays, whatever is installed later
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
