"""The processor's name and flags, and the libraries that they allow."""

from __future__ import annotations

from pathlib import Path

import pytest

from upscaled.engines.builtin import cpu_library, processor
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library, possible_libraries

NEWEST = "flags\t\t: fpu avx2 avx512f avx512_bf16 avx512_fp16 amx_tile amx_bf16\n"


@pytest.fixture
def cpuinfo(tmp_path: Path) -> Path:
    file = tmp_path / "cpuinfo"
    file.write_text(f"processor\t: 0\nmodel name\t: A Processor @ 2 GHz\n{NEWEST}" * 2, "ascii")
    return file


@pytest.mark.parametrize(
    ("limit", "left"),
    [
        ("", {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"}),
        ("ALL", {"avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16"}),
        ("avx512_core_fp16", {"avx2", "avx512f", "avx512_bf16", "avx512_fp16"}),
        ("AVX512_CORE_BF16", {"avx2", "avx512f", "avx512_bf16"}),
        ("AVX512_CORE", {"avx2", "avx512f"}),
        ("AVX2", {"avx2"}),
    ],
)
def test_what_the_environment_forbids_is_no_flag(cpuinfo: Path, limit: str, left: set[str]) -> None:
    assert processor.flags(cpuinfo, {"ONEDNN_MAX_CPU_ISA": limit}) == {"fpu", *left}


def test_emulated_processors_allow_different_libraries(
    cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = (CpuLibrary.NCNN, CpuLibrary.OPENVINO, CpuLibrary.OPENVINO_BF16)
    found = {}
    for limit in ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16", "AVX512_CORE_AMX"):
        monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
        found[limit] = (possible_libraries(cpuinfo), choose_library("auto", cpuinfo))
    assert found == {
        "AVX2": (every[:2], CpuLibrary.NCNN),
        "AVX512_CORE": (every[:2], CpuLibrary.OPENVINO),
        "AVX512_CORE_BF16": (every, CpuLibrary.OPENVINO),
        "AVX512_CORE_AMX": (every, CpuLibrary.OPENVINO_BF16),
    }
    monkeypatch.setattr(cpu_library, "_version", lambda name: "1" if name == "ncnn" else None)
    assert possible_libraries(cpuinfo) == (CpuLibrary.NCNN,)


def test_a_processor_has_a_name_on_every_architecture(cpuinfo: Path, tmp_path: Path) -> None:
    assert processor.name(cpuinfo).endswith(" A Processor @ 2 GHz")
    arm = tmp_path / "arm"
    arm.write_text("Features\t: fp asimd bf16\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n")
    assert processor.name(arm).endswith(" 0x41 0xd40")
    assert processor.flags(arm, {}) == {"fp", "asimd", "bf16"}
    assert processor.name(tmp_path / "none")
    assert processor.flags(tmp_path / "none", {}) == frozenset()
