"""Which network a file's weights are of."""

from __future__ import annotations

from collections.abc import Mapping

from upscaled.models.conversion import compact, esrgan, span
from upscaled.models.conversion.errors import ConversionError, UnknownFamilyError
from upscaled.models.conversion.network import SourceNetwork
from upscaled.models.conversion.tensors import Weights

_NOT_FOR_NCNN: Mapping[str, tuple[str, ...]] = {
    "HAT": ("layers.0.residual_group.overlap_attn.qkv.weight",),
    "DAT": ("layers.0.blocks.0.attn.attns.0.pos.pos_proj.weight",),
    "SwinIR": ("layers.0.residual_group.blocks.0.attn.relative_position_bias_table",),
    "OmniSR": ("residual_layer.0.residual_layer.0.layer.0.fn.0.weight",),
    "SCUNet": ("m_head.0.weight",),
}
"""Families that people ask for and that ncnn has no layers for: keys that only they have."""
_REAL_PLKSR = ("feats.1.channe_mixer.0.weight", "feats.1.channel_mixer.0.weight")
ELSEWHERE = "Look for an ESRGAN, Compact, SPAN, RealPLKSR or MoSR model by the same author."
"""What helps where ncnn cannot run a network."""


def recognise(weights: Weights, activation: str | None = None) -> SourceNetwork:
    """Return the network that weights are of.

    Args:
        weights: of the file.
        activation: ``relu`` or ``leakyrelu``, for Compact networks whose file does not name it.

    Raises:
        UnknownFamilyError: the family is not one that is known here.
        ConversionError: ncnn cannot run it, or the network is a variant that is not understood.
    """
    network: SourceNetwork | None = (
        esrgan.recognise(weights)
        or span.recognise(weights)
        or compact.recognise(weights, activation)
    )
    if network is not None:
        return network
    for family, keys in _NOT_FOR_NCNN.items():
        if any(key in weights for key in keys):
            raise ConversionError(
                f"The network is of the family {family}, which ncnn cannot run. {ELSEWHERE}"
            )
    if any(key in weights for key in _REAL_PLKSR):
        raise UnknownFamilyError("The network is of the family RealPLKSR.")
    some = ", ".join(sorted(key[:60] for key in weights)[:3])
    raise UnknownFamilyError(
        f"The network is not of the families ESRGAN (RRDB), Compact (SRVGG) and SPAN; its first "
        f"weights are {some}."
    )
