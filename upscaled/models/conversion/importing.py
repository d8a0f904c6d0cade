"""A published file becomes a pair that the server offers: read, converted, checked."""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from upscaled import files
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library
from upscaled.models.card import ModelCard, card_path, write_card
from upscaled.models.conversion.check import Agreement, DisagreementError, check, expectations
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.layers import fits_half, write_pair
from upscaled.models.conversion.network import SourceNetwork
from upscaled.models.conversion.recognition import recognise
from upscaled.models.conversion.weights import read_weights

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")


@dataclass(frozen=True)
class Imported:
    """What came of an import."""

    name: str
    architecture: str
    size: str
    """In the family's words: ``64 features, 23 blocks``."""
    scale: int
    parameters: int
    half: bool
    """The weights are stored in 16 bits."""
    agreement: Agreement


@dataclass(frozen=True)
class ImportRequest:
    """What is to be imported, and what is known of it."""

    source: Path
    name: str | None = None
    """Of the model; None: the file's own name."""
    license: str | None = None
    """SPDX identifier, or the licence's name."""
    author: str | None = None
    description: str | None = None
    origin: str | None = None
    """Where it was published."""
    activation: str | None = None
    """``relu`` or ``leakyrelu``, for Compact networks whose file does not tell."""
    replace: bool = False
    """A model of the same name may be replaced."""


async def import_model(
    request: ImportRequest,
    models_dir: Path,
    *,
    on_step: Callable[[str], None] = lambda _: None,
    looks_like_source: bool = True,
) -> Imported:
    """Convert a file and put the pair into ``models_dir``, once it was checked.

    Nothing is left behind by an import that fails.

    Args:
        request: the file and its facts.
        models_dir: an existing folder.
        on_step: is told what is being done.
        looks_like_source: refuse networks whose results do not have their source's colours.

    Raises:
        ConversionError: the file cannot be used; the message says why.
        OSError: a file cannot be read or written.
    """
    name = _checked_name(request)
    on_step("reading")
    await asyncio.to_thread(_check_free, request, models_dir / f"{name}.param")
    digest, network, parameters = await asyncio.to_thread(_read, request)
    on_step("computing what it must make")
    expected = await asyncio.to_thread(expectations, network)
    libraries = await asyncio.to_thread(_libraries)
    workdir = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix=".import-", dir=models_dir))
    try:
        param, weights = workdir / "network.param", workdir / "network.bin"
        layers = network.layers()
        # 16 bits where they keep the picture, as in the official networks; else 32.
        for half in (True, False) if fits_half(layers) else (False,):
            on_step(f"converting to {16 if half else 32} bits")
            await asyncio.to_thread(write_pair, layers, param, weights, half=half)
            try:
                agreement = await check(
                    network, expected, param, weights, workdir, libraries=libraries,
                    looks_like_source=looks_like_source, on_step=on_step,
                )  # fmt: skip
                break
            except DisagreementError:
                if not half:
                    raise
        card = ModelCard(
            license=request.license, author=request.author, description=request.description,
            source=request.origin, architecture=network.architecture, size=network.size,
            parameters=parameters, original_sha256=digest,
        )  # fmt: skip
        await asyncio.to_thread(_put, param, weights, card, models_dir, name)
    finally:
        await asyncio.to_thread(shutil.rmtree, workdir, ignore_errors=True)
    return Imported(
        name, network.architecture, network.size, network.scale, parameters, half, agreement
    )


def _check_free(request: ImportRequest, param: Path) -> None:
    if not request.replace and param.exists():
        raise ConversionError(
            f"There is a model {param.stem} already; give another --name, or --force to replace it."
        )


def _libraries() -> tuple[CpuLibrary, ...]:
    """Return the libraries that run networks here, ncnn always.

    Where bfloat16 is used, the engine compares it with 32 bits itself; here 32 bits are checked.
    """
    chosen = choose_library("auto")
    exact = CpuLibrary.OPENVINO if chosen is CpuLibrary.OPENVINO_BF16 else chosen
    return tuple(dict.fromkeys([CpuLibrary.NCNN, exact]))


def _checked_name(request: ImportRequest) -> str:
    name = request.name
    if name is None:
        name = re.sub(r"[^A-Za-z0-9._+-]+", "-", request.source.stem).strip("-._+")[:100]
    if not _NAME.fullmatch(name):
        raise ConversionError(
            f"{name!r} cannot be a model's name: it starts with a letter or digit and goes on with "
            "letters, digits and ._+- only, 100 in all; give one with --name."
        )
    return name


def _read(request: ImportRequest) -> tuple[str, SourceNetwork, int]:
    digest = files.sha256_of(request.source)
    weights = read_weights(request.source)
    network = recognise(weights, request.activation)
    return digest, network, sum(value.size for value in weights.values())


def _put(param: Path, weights: Path, card: ModelCard, models_dir: Path, name: str) -> None:
    """Rename the pair into place: the ``.param`` last, since it makes the pair complete."""
    for path in (param, weights):
        files.sync(path)
    write_card(card_path(models_dir, name), card)
    weights.replace(models_dir / f"{name}.bin")
    param.replace(models_dir / f"{name}.param")
    files.sync(models_dir)
