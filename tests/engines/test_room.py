"""What room a network has, and what it gives up where there is little."""

from __future__ import annotations

from pathlib import Path

import pytest

from upscaled.engines.protocol import ModelFiles
from upscaled.engines.room import Room, TooLittleError


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
    rich, lean = Room(model, 600 << 20), Room(model, 500 << 20)
    assert (rich.lean, lean.lean) == (False, True)
    assert lean.for_tiles > rich.for_tiles
    assert lean.bytes_per_pixel < rich.bytes_per_pixel


def test_too_little_memory_is_told_with_what_to_change(tmp_path: Path) -> None:
    model = a_model(tmp_path, 33 << 20)
    with pytest.raises(TooLittleError) as caught:
        Room(model, 150 << 20)
    assert str(caught.value) == (
        "n needs 235 MiB for its smallest tile; the engine may hold 150; raise "
        "upscaler.memory_limit_mb by 85 or more."
    )
    assert Room(model, 235 << 20).for_tiles >= 0
