"""The environment of child processes."""

from __future__ import annotations

import os


def plain_env(**extra: str) -> dict[str, str]:
    """Return the environment for children: what loaders and drivers need, and a fixed locale.

    Nothing else is passed on, in particular no tokens in ``UPSCALED_*`` variables.
    """
    names = (
        "PATH",
        "HOME",
        "TMPDIR",
        "LD_LIBRARY_PATH",
        "XDG_RUNTIME_DIR",
        "XDG_CACHE_HOME",
        "XDG_DATA_DIRS",
        "CUDA_VISIBLE_DEVICES",
        "NVIDIA_VISIBLE_DEVICES",
        "NVIDIA_DRIVER_CAPABILITIES",
        "MESA_VK_DEVICE_SELECT",
        "DRI_PRIME",
        "ONEDNN_MAX_CPU_ISA",
    )
    env = {name: os.environ[name] for name in names if name in os.environ}
    env |= {name: value for name, value in os.environ.items() if name.startswith("VK_")}
    return env | {"LC_ALL": "C.UTF-8"} | extra
