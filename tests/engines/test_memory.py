"""How much memory there is to take."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from upscaled.engines import memory


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(value)


def test_a_limit_of_our_own_is_the_ceiling_else_half_of_the_machine() -> None:
    assert memory.ceiling(100) == 100 << 20
    assert memory.available() <= memory.ceiling(None)


@pytest.mark.parametrize(("service", "engine"), [(4000, 3630), (1000, 630), (500, 200)])
def test_the_engine_gets_what_the_rest_of_the_service_leaves(service: int, engine: int) -> None:
    assert memory.engine_part_mb(service) == engine


def test_without_a_setting_the_service_gets_half_of_what_is_free() -> None:
    assert memory.engine_part_mb(0) < memory.ceiling(None) >> 20


def test_the_peak_shows_memory_that_is_gone_again() -> None:
    memory.trim()  # what earlier tests freed would be used again, and the peak not rise
    memory.reset_peak()
    before = memory.peak()
    block = np.ones(64 << 20, np.uint8)
    del block
    memory.trim()
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


@pytest.mark.parametrize("engines_mb", [1, 85, 235, 246, 247, 248, 600, 5000])
def test_the_limit_that_is_named_is_enough_and_no_smaller_one_is(engines_mb: int) -> None:
    named = memory.service_mb(engines_mb)
    assert memory.engine_part_mb(named) >= engines_mb
    assert memory.engine_part_mb(named - 1) < engines_mb
