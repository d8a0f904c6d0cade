"""The processor: its name, and the instructions that networks may use on it."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
FOR_NETWORKS = frozenset(
    {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "asimd", "bf16"}
)
"""Flags that decide how libraries run networks."""
_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""Environment variable that keeps OpenVINO from newer instructions; workers inherit it."""
_LEVELS = (
    ("AVX512_CORE", ("avx512",)),
    ("AVX512_CORE_BF16", ("avx512_bf16", "avx512_fp16", "amx")),
    ("AVX512_CORE_FP16", ("avx512_fp16", "amx")),
    ("AVX512_CORE_AMX", ("amx",)),
)
"""Values of that variable, and the flags that start like this from each of them on."""
_ORDER = (
    "SSE41",
    "AVX",
    "AVX2",
    "AVX2_VNNI",
    "AVX2_VNNI_2",
    "AVX512_CORE",
    "AVX512_CORE_VNNI",
    "AVX512_CORE_BF16",
    "AVX512_CORE_FP16",
    "AVX512_CORE_AMX",
)


def flags(cpuinfo: Path = CPUINFO, env: Mapping[str, str] = os.environ) -> frozenset[str]:
    """Return the processor's flags, without those that the environment forbids; blocking."""
    found = {flag for line in _lines(cpuinfo, "flags", "Features") for flag in line.split()}
    limit = env.get(_LIMIT, "").upper()
    if limit in _ORDER:
        for level, prefixes in _LEVELS:
            if _ORDER.index(limit) < _ORDER.index(level):
                found = {flag for flag in found if not flag.startswith(prefixes)}
    return frozenset(found)


def name(cpuinfo: Path = CPUINFO) -> str:
    """Return the processor's model, or on ARM64 the numbers that stand for it; blocking."""
    for fields in (("model name",), ("CPU implementer", "CPU part", "CPU variant")):
        found = sorted(set(_lines(cpuinfo, *fields)))
        if found:
            return " ".join([platform.machine(), *found])
    return platform.machine()


def _lines(cpuinfo: Path, *names: str) -> list[str]:
    """Return the values of these fields, of all cores."""
    try:
        lines = cpuinfo.read_text("ascii", "replace").splitlines()
    except OSError:
        return []
    pairs = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() in names]
