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
