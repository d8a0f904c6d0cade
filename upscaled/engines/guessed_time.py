"""How long a network takes, guessed before it was measured."""

from __future__ import annotations

CPU_WEIGHTS_PER_SECOND = 25e9
"""First guess, on the slow side: weights applied in a second by one core. 70e9 to 100e9 were
measured with AVX-512."""
GPU_WEIGHTS_PER_SECOND = 500e9
"""The same of a small integrated GPU; a discrete one does ten times that."""
BYTES_PER_WEIGHT = 2
"""In a ``.bin``; the official models are stored in 16 bits."""


def guess_seconds(weight_bytes: int, pixels: float, weights_per_second: float) -> float:
    """Return a guess of how long a network takes for ``pixels`` padded pixels.

    Args:
        weight_bytes: length of the network's ``.bin``.
        pixels: padded pixels of the source.
        weights_per_second: `CPU_WEIGHTS_PER_SECOND` for each core, or `GPU_WEIGHTS_PER_SECOND`.
    """
    return weight_bytes / BYTES_PER_WEIGHT * pixels / weights_per_second
