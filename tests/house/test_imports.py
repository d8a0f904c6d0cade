"""Imports point one way: the layers of pyproject.toml, in order."""

from __future__ import annotations

import subprocess
import sys

from testkit import imports
from testkit.paths import ROOT


def test_imports_point_down_only() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as main; main()",
         "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_drawing_shows_every_room_and_no_import_that_points_up() -> None:
    rows, arrows = imports.layers(), imports.arrows()
    rooms = {
        path.stem
        for path in (ROOT / "upscaled").iterdir()
        if path.name != "__init__.py" and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    assert {room for row in rows for room in row} == rooms
    assert imports.upward(rows, arrows) == []
    assert imports.upward(rows[::-1], arrows) != []


def test_the_root_of_the_package_holds_few_modules() -> None:
    assert len(list((ROOT / "upscaled").glob("*.py"))) <= 12


def loaded_by(*modules: str) -> set[str]:
    """Return the names of the packages that are loaded together with ``modules``."""
    code = f"import sys, {', '.join(modules)}; print(*{{n.partition('.')[0] for n in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_processes_that_start_often_load_little() -> None:
    # Each of these takes as long to load as a small picture takes to upscale.
    worker = loaded_by("upscaled.engines.builtin.worker")
    assert "ncnn" in worker
    assert worker.isdisjoint({"asyncio", "aiohttp", "PIL", "openvino"})
    decoder = loaded_by("upscaled.imaging.worker")
    assert "PIL" in decoder
    assert decoder.isdisjoint({"asyncio", "aiohttp", "ncnn", "openvino"})
    command = loaded_by("upscaled.commands.upscale", "upscaled.batch.local")
    assert "upscaled" in command
    assert command.isdisjoint({"aiohttp", "numpy", "ncnn", "openvino"})
