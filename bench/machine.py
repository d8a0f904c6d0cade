"""The machine and the version that figures were measured on."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
from pathlib import Path

import psutil

from testkit.paths import ROOT


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in {"model name", "Model"}:
            return value.strip()
    return platform.machine()  # ARM64 kernels name no model


def _instructions() -> str:
    """Return the fastest of the instruction sets that the engine uses, or nothing."""
    flags = set(re.findall(r"amx_bf16|avx512f|avx2", Path("/proc/cpuinfo").read_text("utf-8")))
    known = {"amx_bf16": "AMX (bfloat16)", "avx512f": "AVX-512, no AMX", "avx2": "AVX2"}
    return next((name for flag, name in known.items() if flag in flags), "")


def _commit() -> str:
    """Return the commit of this checkout, with a "+" if files were changed; nothing without git."""
    command = ["git", "describe", "--always", "--exclude=*", "--abbrev=7", "--dirty=+"]
    try:
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def machine() -> dict[str, str | int | float]:
    """Return what figures depend on: processor, cores, memory (GiB), versions, date, load."""
    return {
        "processor": _processor(),
        "architecture": platform.machine(),
        "instructions": _instructions(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / (1 << 30), 1),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "ncnn": _version("ncnn"),
        "openvino": _version("openvino"),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "load": round(os.getloadavg()[0], 1),
    }
