"""How a network is loaded within a memory limit."""

from __future__ import annotations

from pathlib import Path

import pytest

from upscaled.engines.builtin.memory_budget import MemoryBudget, TooLittleMemoryError
from upscaled.engines.engine import ModelFiles

STORED = 33 << 20
X4PLUS = ModelFiles(Path("n.param"), Path("n.bin"), 4, "data", "output", 68_000)


def test_a_network_that_does_not_fit_otherwise_is_loaded_lean() -> None:
    rich, lean = (MemoryBudget(X4PLUS, STORED, limit << 20) for limit in (600, 500))
    assert (rich.variant.lean, lean.variant.lean) == (False, True)
    assert lean.for_tiles > rich.for_tiles
    assert lean.bytes_per_pixel < rich.bytes_per_pixel


def test_too_little_memory_is_told_with_what_to_change() -> None:
    with pytest.raises(TooLittleMemoryError) as caught:
        MemoryBudget(X4PLUS, STORED, 150 << 20)
    assert str(caught.value) == (
        "n needs 235 MiB for its smallest tile and the engine may hold 150; use a smaller model, "
        "or raise upscaler.memory_limit_mb to 588 or more."
    )
    assert MemoryBudget(X4PLUS, STORED, 235 << 20).for_tiles >= 0
