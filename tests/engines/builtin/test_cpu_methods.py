"""What was measured of methods to run networks is remembered."""

from __future__ import annotations

import asyncio
import dataclasses
from pathlib import Path

import pytest

from testkit.networks import write_repeater
from upscaled.engines.builtin import cpu_methods as methods_module
from upscaled.engines.builtin.choice import Pace, Table
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.builtin.cpu_methods import CpuMethods, this_machine
from upscaled.engines.cpu_method import CpuMethod
from upscaled.engines.engine import ModelFiles
from upscaled.pictures import Size

SMALL, LARGE = Size(100, 100), Size(1000, 1000)
TABLE = Table(
    "n",
    (
        Pace(CpuLibrary.NCNN, 1, 2, 64, 1e-6, 90),
        Pace(CpuLibrary.NCNN, 1, 2, 400, 9e-6, 90),
        Pace(CpuLibrary.OPENVINO, 1, 2, 64, 2e-6, 90),
        Pace(CpuLibrary.OPENVINO, 1, 2, 400, 1e-7, 90),
    ),
    {CpuLibrary.OPENVINO: {"slope": 80.0}},
)


@pytest.fixture
def model(tmp_path: Path) -> ModelFiles:
    return write_repeater(tmp_path, "n", 2)


async def opened(file: Path, threads: int = 2) -> CpuMethods:
    methods = CpuMethods(file, await asyncio.to_thread(this_machine, threads, 0))
    await methods.load()
    return methods


async def test_a_network_is_wanted_until_it_is_measured_then_its_way_is_known(
    tmp_path: Path, model: ModelFiles
) -> None:
    methods = await opened(tmp_path / "data" / "ways.json")
    assert methods.of(model, LARGE) is None
    methods.meet(model, "key")
    assert dict(methods.wanted) == {"key": model}
    await methods.put("key", TABLE)
    assert not methods.wanted
    assert methods.of(model, LARGE) == CpuMethod("openvino")
    assert methods.of(model, SMALL) == CpuMethod("ncnn")
    again = await opened(tmp_path / "data" / "ways.json")
    assert again.of(model, LARGE) is None  # which files are that network is not known yet
    again.meet(model, "key")
    assert not again.wanted
    assert again.of(model, LARGE) == CpuMethod("openvino")
    assert again.tables == {"key": TABLE}
    again.meet(model, "replaced")
    assert again.of(model, LARGE) is None
    assert list(again.wanted) == ["replaced"]


async def test_on_another_machine_nothing_is_known(tmp_path: Path) -> None:
    file = tmp_path / "ways.json"
    await (await opened(file)).put("key", TABLE)
    assert (await opened(file)).tables
    assert not (await opened(file, threads=3)).tables
    machine = await asyncio.to_thread(this_machine, 2, 0)
    for other in (
        dataclasses.replace(machine, processor="another"),
        dataclasses.replace(machine, flags=f"{machine.flags} another"),
        dataclasses.replace(machine, libraries=("ncnn 0.9",)),
        dataclasses.replace(machine, memory_gib=machine.memory_gib + 8),
        dataclasses.replace(machine, memory_limit_mb=900),
    ):
        methods = CpuMethods(file, other)
        await methods.load()
        assert not methods.tables


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 1}', bytes(50)])
async def test_a_damaged_file_counts_as_empty(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ways.json"
    file.write_bytes(content)
    methods = await opened(file)
    assert not methods.tables
    await methods.put("key", TABLE)
    assert (await opened(file)).tables == {"key": TABLE}


async def test_a_file_of_another_format_counts_as_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ways.json"
    await (await opened(file)).put("key", TABLE)
    monkeypatch.setattr(methods_module, "_FORMAT", 99)
    assert not (await opened(file)).tables


async def test_the_file_and_the_list_of_wanted_networks_are_bounded(
    tmp_path: Path, model: ModelFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(methods_module, "_TABLES", 3)
    monkeypatch.setattr(methods_module, "_WANTED", 3)
    methods = await opened(tmp_path / "ways.json")
    for number in range(5):
        methods.meet(model, f"wanted {number}")
        await methods.put(f"key {number}", TABLE)
    assert list(methods.tables) == ["key 2", "key 3", "key 4"]
    assert len(methods.wanted) == 3
    assert list((await opened(tmp_path / "ways.json")).tables) == ["key 2", "key 3", "key 4"]


async def test_a_folder_that_cannot_be_written_is_no_error(
    tmp_path: Path, model: ModelFiles
) -> None:
    (tmp_path / "file").write_text("not a folder")
    methods = await opened(tmp_path / "file" / "ways.json")
    methods.meet(model, "key")
    await methods.put("key", TABLE)
    assert methods.of(model, LARGE) == CpuMethod("openvino")


def test_where_a_setting_forces_a_way_nothing_is_wanted(model: ModelFiles) -> None:
    methods = CpuMethods()
    methods.meet(model, "key")
    assert not methods.wanted
    assert methods.of(model, LARGE) is None


async def test_who_wants_it_fast_gets_bfloat16_where_it_is_quicker(
    tmp_path: Path, model: ModelFiles
) -> None:
    bf16, exact = CpuLibrary.OPENVINO_BF16, CpuLibrary.OPENVINO
    machine = await asyncio.to_thread(this_machine, 2, 0)
    methods = CpuMethods(
        tmp_path / "ways.json", dataclasses.replace(machine, usable=("ncnn", bf16.value))
    )
    methods.meet(model, "key")
    assert methods.of(model, LARGE, fast=True) == CpuMethod(bf16, measured=False, fast=True)
    without = CpuMethods(None, dataclasses.replace(machine, usable=("ncnn",)))
    without.meet(model, "key")
    assert without.of(model, LARGE, fast=True) is None
    assert CpuMethods().of(model, LARGE, fast=True) is None  # a setting forces a method
    for least, chosen in ((45.0, bf16), (39.0, exact)):
        table = Table(
            "n",
            (Pace(bf16, 2, 1, 64, 1e-6, 100), Pace(exact, 2, 1, 64, 2e-6, 100)),
            {bf16: {"slope": least}, exact: {"slope": 90.0}},
        )
        await methods.put("key", table)
        for size in (LARGE, SMALL):
            found = methods.of(model, size, fast=True)
            assert found is not None
            assert (found.library, found.fast, found.measured) == (chosen, True, True)
            assert methods.of(model, size) == dataclasses.replace(found, library=exact, fast=False)


async def test_as_long_as_methods_are_not_measured_nothing_is_chosen(
    tmp_path: Path, model: ModelFiles
) -> None:
    methods = await opened(tmp_path / "ways.json")
    methods.meet(model, "key")
    await methods.put("key", dataclasses.replace(TABLE, unmeasured=1))
    for found in (methods, await opened(tmp_path / "ways.json")):
        found.meet(model, "key")
        assert found.of(model, LARGE) is None
        assert found.of(model, SMALL) is None
        assert found.pace(model) is None
        assert not found.known("key")
        assert list(found.wanted) == ["key"]
    await methods.put("key", TABLE)
    assert not methods.wanted
    assert methods.known("key")


@pytest.mark.parametrize("ratio", [2.0, 0.5])
async def test_jobs_that_contradict_what_was_measured_have_it_measured_again(
    tmp_path: Path, model: ModelFiles, ratio: float
) -> None:
    methods = await opened(tmp_path / "ways.json")
    await methods.observe(model, 1.0)  # not met
    methods.meet(model, "key")
    await methods.put("key", TABLE)
    pace = methods.pace(model)
    assert pace is not None
    for other in (1.0, ratio, ratio, 1.0, ratio, ratio):
        await methods.observe(model, pace * other)
        assert not methods.wanted
    await methods.observe(model, pace * ratio)
    assert list(methods.wanted) == ["key"]
    assert methods.tables["key"].doubt == ratio
    assert methods.of(model, LARGE) == CpuMethod("openvino")  # until something else is known
    again = await opened(tmp_path / "ways.json")
    again.meet(model, "key")
    assert list(again.wanted) == ["key"]
    # The new measurement shows that another library is quicker.
    right = dataclasses.replace(
        TABLE, paces=(*TABLE.paces[:3], dataclasses.replace(TABLE.paces[3], seconds_per_pixel=1.0))
    )
    await methods.put("key", right)
    assert methods.of(model, LARGE) == CpuMethod("ncnn", tile=64)
    assert not methods.wanted
    # If jobs still differ by as much, it lies in them: no endless measuring.
    pace = methods.pace(model)
    assert pace is not None
    for _ in range(10):
        await methods.observe(model, pace * ratio)
    assert not methods.wanted
    for _ in range(3):
        await methods.observe(model, pace * ratio * ratio)
    assert list(methods.wanted) == ["key"]
