"""Which network a file's weights are of."""

from __future__ import annotations

from collections.abc import Mapping

from upscaled.models.conversion import compact, esrgan, span
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.network import SourceNetwork
from upscaled.models.conversion.tensors import Weights

_OTHERS: Mapping[str, tuple[str, ...]] = {
    "HAT": ("layers.0.residual_group.overlap_attn.qkv.weight",),
    "DAT": ("layers.0.blocks.0.attn.attns.0.pos.pos_proj.weight",),
    "SwinIR": ("layers.0.residual_group.blocks.0.attn.relative_position_bias_table",),
    "RealPLKSR": ("feats.1.channe_mixer.0.weight", "feats.1.channel_mixer.0.weight"),
    "OmniSR": ("residual_layer.0.residual_layer.0.layer.0.fn.0.weight",),
    "SCUNet": ("m_head.0.weight",),
}
"""Families that people ask for and that are not converted: keys that only they have."""


def recognise(weights: Weights, activation: str | None = None) -> SourceNetwork:
    """Return the network that weights are of.

    Args:
        weights: of the file.
        activation: ``relu`` or ``leakyrelu``, for Compact networks whose file does not tell.

    Raises:
        ConversionError: the family is not one that can be converted, or the network is a variant
            that is not understood.
    """
    network: SourceNetwork | None = (
        esrgan.recognise(weights)
        or span.recognise(weights)
        or compact.recognise(weights, activation)
    )
    if network is not None:
        return network
    for family, keys in _OTHERS.items():
        if any(key in weights for key in keys):
            raise ConversionError(
                f"This is a {family} network. Only ESRGAN (RRDB), Compact (SRVGG) and SPAN "
                "networks can be converted; look for one of these by the same author."
            )
    some = ", ".join(sorted(key[:60] for key in weights)[:3])
    raise ConversionError(
        "The network is of a family that is not known. Only ESRGAN (RRDB), Compact (SRVGG) and "
        f"SPAN networks can be converted. Its first weights are {some}."
    )
