"""Which devices are found, and which is taken."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from testkit import parts
from upscaled.engines.devices import best_device, kind_of, list_devices
from upscaled.engines.engine import Device, DeviceKind
from upscaled.workers.environment import plain_env


async def test_swiftshader_is_found_and_is_software() -> None:
    devices = await list_devices(plain_env(**parts.swiftshader_env()))
    assert [(device.index, device.kind) for device in devices] == [(0, DeviceKind.SOFTWARE)]
    assert "SwiftShader" in devices[0].name
    assert best_device(devices) is None


async def test_lavapipe_is_found_and_is_software() -> None:
    devices = await list_devices(plain_env(**parts.lavapipe_env()))
    assert [device.kind for device in devices] == [DeviceKind.SOFTWARE]
    assert "llvmpipe" in devices[0].name


async def test_without_a_driver_there_are_no_devices(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert await list_devices(plain_env(VK_ICD_FILENAMES="/nowhere.json")) == []
    assert caplog.records == []


async def test_a_driver_that_kills_who_asks_is_logged_and_counts_as_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    # Raised in the asking thread, as a driver's fault is: a signal to the process may reach another
    # thread, and this one may answer before it ends.
    (tmp_path / "sitecustomize.py").write_text(
        "import ncnn, signal\nncnn.get_gpu_count = lambda: signal.raise_signal(signal.SIGSEGV)\n"
    )
    env = plain_env(PYTHONPATH=str(tmp_path))
    with caplog.at_level(logging.WARNING):
        assert await list_devices(env) == []
    assert "Vulkan can't be used: the device query process ended with signal 11" in caplog.text


@pytest.mark.parametrize(
    ("name", "number", "kind"),
    [
        ("NVIDIA GeForce RTX 4090", 0, DeviceKind.DISCRETE),
        ("Intel(R) UHD Graphics 620", 1, DeviceKind.INTEGRATED),
        ("Virtio-GPU Venus", 2, DeviceKind.VIRTUAL),
        ("Some CPU", 3, DeviceKind.SOFTWARE),
        ("llvmpipe (LLVM 15.0.6, 256 bits)", 0, DeviceKind.SOFTWARE),
        ("SwiftShader Device (Subzero)", 3, DeviceKind.SOFTWARE),
        ("Something new", 9, DeviceKind.VIRTUAL),
    ],
)
def test_what_a_device_is_shows_in_its_type_and_its_name(
    name: str, number: int, kind: DeviceKind
) -> None:
    assert kind_of(name, number) is kind


def test_a_discrete_gpu_comes_before_an_integrated_before_a_virtual_one() -> None:
    software = Device(0, "llvmpipe", DeviceKind.SOFTWARE)
    virtual = Device(1, "virtual", DeviceKind.VIRTUAL)
    integrated = Device(2, "integrated", DeviceKind.INTEGRATED)
    first, second = (Device(index, "discrete", DeviceKind.DISCRETE) for index in (3, 4))
    assert best_device([software, virtual, integrated, first, second]) is first
    assert best_device([software, virtual, integrated]) is integrated
    assert best_device([software, virtual]) is virtual
    assert best_device([software]) is None
    assert best_device([]) is None
