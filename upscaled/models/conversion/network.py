"""What a file's weights are: the architecture, its sizes, and the two ways to run it."""

from __future__ import annotations

from typing import Protocol

from upscaled.engines.builtin.graph import Layer
from upscaled.models.conversion.layers import Floats


class SourceNetwork(Protocol):
    """A network that was recognised by its weights' names and shapes."""

    @property
    def architecture(self) -> str:
        """Name that people know: ``ESRGAN``, ``Compact`` or ``SPAN``."""
        ...

    @property
    def scale(self) -> int:
        """How much larger its output is."""
        ...

    @property
    def size(self) -> str:
        """How large it is, in its family's words: ``64 features, 23 blocks``."""
        ...

    def layers(self) -> tuple[Layer, ...]:
        """Return it as ncnn layers."""
        ...

    def run(self, picture: Floats) -> Floats:
        """Return its output by the definition: planes (3, height, width) of 0 to 1 in and out.

        Independent of `layers`: the conversion is compared with it.
        """
        ...
