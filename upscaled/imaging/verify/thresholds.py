"""How much an engine's picture may differ from its source, as shares of the measures' limits.

`docs/verification.md` describes the experiment behind them.
"""

from __future__ import annotations

from upscaled.errors import EngineError

TRUSTED_LIMIT = 0.4
"""Up to this share a picture is trusted. Every visible planted fault exceeds it. So does one in
thirty of the correct pictures, mostly noise and pixel art, and none of the photos; a second process
confirms those (`upscaled.pipeline.confirmation`)."""

PLAUSIBLE_LIMIT = 1.0
"""No correct picture of the experiment exceeds it."""

CONFIRMABLE_LIMIT = 2.0
"""Beyond it a picture is refused even if a second process makes the same: that includes 98 of 100
black pictures."""


class UnlikeError(EngineError):
    """The engine's output is not the enlarged source; the message says how it differs."""

    code = "unlike_source"
