"""How much memory there is to take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from upscaled.engines import memory
from upscaled.engines.protocol import ModelFiles


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(value)


def test_a_limit_of_our_own_is_the_ceiling_else_half_of_the_machine() -> None:
    assert memory.ceiling(100) == 100 << 20
    assert memory.available() <= memory.ceiling(None)


def a_model(folder: Path, stored: int) -> ModelFiles:
    """A network like x4plus, but for the size of its weights."""
    weights = folder / "n.bin"
    with weights.open("wb") as file:
        file.truncate(stored)
    return ModelFiles(folder / "n.param", weights, 4, "data", "output", 68_000)


def test_a_network_that_does_not_fit_with_all_that_is_quick_is_furnished_lean(
    tmp_path: Path,
) -> None:
    model = a_model(tmp_path, 33 << 20)
    rich, lean = memory.Room(model, 600 << 20), memory.Room(model, 500 << 20)
    assert (rich.lean, lean.lean) == (False, True)
    assert lean.for_tiles > rich.for_tiles
    assert lean.bytes_per_pixel < rich.bytes_per_pixel


def test_too_little_memory_is_told_with_what_to_change(tmp_path: Path) -> None:
    model = a_model(tmp_path, 33 << 20)
    with pytest.raises(memory.TooLittleError) as caught:
        memory.Room(model, 150 << 20)
    assert str(caught.value) == (
        "n needs 235 MiB for its smallest tile; the engine may hold 150; raise "
        "upscaler.memory_limit_mb by 85 or more."
    )
    assert memory.Room(model, 235 << 20).for_tiles >= 0


def test_the_peak_shows_memory_that_is_gone_again() -> None:
    memory.reset_peak()
    before = memory.peak()
    block = np.ones(64 << 20, np.uint8)
    del block
    memory.give_back()
    assert memory.peak() - before > 60 << 20
    assert memory.resident() - before < 30 << 20


@pytest.mark.parametrize(
    ("line", "base", "limit", "usage"),
    [
        ("0::/a/b", "", "memory__max", "memory__current"),
        ("4:cpu,memory:/a/b", "memory", "memory__limit_in_bytes", "memory__usage_in_bytes"),
    ],
)
def test_every_control_group_above_us_counts(
    tmp_path: Path, line: str, base: str, limit: str, usage: str
) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text(f"1:name=systemd:/\n{line}\n")
    root = tmp_path / "fs" / base
    stat = "anon 5\ninactive_file 100\nactive_file 50\n"
    group(root, **{usage: "1"})
    group(root / "a", **{limit: "1000", usage: "700", "memory__stat": stat})
    group(root / "a" / "b", **{limit: "5000", usage: "100", "memory__stat": "anon 5\n"})
    assert sorted(memory.group_amounts(proc, tmp_path / "fs")) == [450, 4900]


def test_a_group_without_a_limit_does_not_count(tmp_path: Path) -> None:
    proc = tmp_path / "cgroup"
    proc.write_text("0::/\n")
    group(tmp_path / "fs", memory__max="max", memory__current="5", memory__stat="anon 5\n")
    assert memory.group_amounts(proc, tmp_path / "fs") == []
    assert memory.group_amounts(tmp_path / "nowhere", tmp_path / "fs") == []
