"""What can go wrong when a network is converted."""

from __future__ import annotations

from upscaled.errors import UpscaledError


class ConversionError(UpscaledError):
    """A file cannot be converted; the message is a sentence that says why and what helps."""

    code = "unusable_model"
    status = 422


class UnknownFamilyError(ConversionError):
    """The file is valid, but this reader does not know its network's family."""
