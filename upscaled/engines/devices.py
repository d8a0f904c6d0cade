"""Lists the Vulkan devices from a child process, since a broken driver can crash the caller."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from upscaled.engines.builtin.protocol import WORKER_MODULE, worker_arguments
from upscaled.engines.engine import CPU, Device, DeviceKind
from upscaled.workers.client import WorkerClient
from upscaled.workers.errors import WorkerError, WorkerRefusedError

log = logging.getLogger(__name__)

_TIMEOUT_SECONDS = 60.0
"""A driver may compile shaders at its first start; one that hangs must not block the service."""

# GpuInfo.type in ncnn's gpu.h
_KINDS = {
    0: DeviceKind.DISCRETE,
    1: DeviceKind.INTEGRATED,
    2: DeviceKind.VIRTUAL,
    3: DeviceKind.SOFTWARE,
}
_SOFTWARE_NAMES = ("llvmpipe", "lavapipe", "swiftshader", "softpipe", "basic render driver")
_PREFERENCE = (DeviceKind.DISCRETE, DeviceKind.INTEGRATED, DeviceKind.VIRTUAL)


async def list_devices(env: Mapping[str, str] | None = None) -> list[Device]:
    """Return the Vulkan devices in the library's order, including software drivers.

    When a driver crashes the child process or hangs, the list is empty and the log says why.

    Args:
        env: environment of the child process; None: `plain_env`.
    """
    worker = WorkerClient(
        WORKER_MODULE, name="device query", arguments=worker_arguments(CPU, threads=1), env=env
    )
    try:
        reply = await worker.request({"op": "devices"}, timeout=_TIMEOUT_SECONDS)
    except (WorkerError, WorkerRefusedError) as error:
        log.warning("Vulkan can't be used: %s.", str(error).rstrip("."))
        return []
    except TimeoutError:
        log.warning("Vulkan can't be used: no answer within %g seconds.", _TIMEOUT_SECONDS)
        return []
    finally:
        await worker.close()
    return [
        Device(found["index"], found["name"], kind_of(found["name"], found["type"]))
        for found in reply["devices"]
    ]


def kind_of(name: str, number: int) -> DeviceKind:
    """Return the kind of a device, by its name and ncnn's number for its type.

    The name comes first, since some software drivers do not report the type CPU.
    """
    if any(known in name.lower() for known in _SOFTWARE_NAMES):
        return DeviceKind.SOFTWARE
    return _KINDS.get(number, DeviceKind.VIRTUAL)


def best_device(devices: Sequence[Device]) -> Device | None:
    """Return the GPU to use by default: discrete before integrated before virtual.

    None when there is no hardware GPU.
    """
    for kind in _PREFERENCE:
        for device in devices:
            if device.kind is kind:
                return device
    return None
