"""Which library runs networks on the CPU; decided without loading one."""

from __future__ import annotations

import functools
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
    installed = _version("openvino") is not None
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
    if _version("openvino") is not None:
        libraries.append(CpuLibrary.OPENVINO)
        if processor.flags(cpuinfo) & {"avx512_bf16", "amx_bf16"}:
            libraries.append(CpuLibrary.OPENVINO_BF16)
    return tuple(libraries)


def versions() -> tuple[str, ...]:
    """Return the names and versions of the libraries that are installed; blocking."""
    found = {name: _version(name) for name in ("ncnn", "openvino")}
    return tuple(f"{name} {version}" for name, version in found.items() if version)


@functools.cache  # a library that is loaded stays, whatever is installed later
def _with_version(library: CpuLibrary) -> str:
    name = "ncnn" if library is CpuLibrary.NCNN else "OpenVINO"
    bits = " in bfloat16" if library is CpuLibrary.OPENVINO_BF16 else ""
    return f"{name} {_version(library.package)}{bits}"


def _version(package: str) -> str | None:
    """Return the version of a Python package; None: it is not installed."""
    from importlib import metadata  # noqa: PLC0415 - slow to load, and workers seldom ask

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
