"""A published file becomes a pair that the server offers: read, converted, checked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from upscaled import files
from upscaled.engines.builtin.cpu_library import CpuLibrary, choose_library
from upscaled.models.card import ModelCard, card_path, write_card
from upscaled.models.conversion import work_folders
from upscaled.models.conversion.check import DisagreementError, check
from upscaled.models.conversion.converting import EXACT, HALF, converted, read_expectations
from upscaled.models.conversion.errors import UnknownFamilyError
from upscaled.models.conversion.foreign import converted_by_pnnx
from upscaled.models.conversion.imported import Imported
from upscaled.models.conversion.request import ImportRequest, check_free, checked_name


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
    name = checked_name(request)
    await asyncio.to_thread(check_free, request, models_dir, name)
    async with work_folders.opened(models_dir) as workdir:
        try:
            made = await converted(
                request.source, workdir, name=request.file_name, activation=request.activation,
                on_step=on_step,
            )  # fmt: skip
        except UnknownFamilyError as error:
            made = await converted_by_pnnx(
                request.source, workdir, name=request.file_name, because=error, on_step=on_step
            )
        expected = await asyncio.to_thread(read_expectations, workdir, made.scale)
        libraries = await asyncio.to_thread(_libraries)
        # 16 bits where they keep the picture, as in the official networks; else 32.
        for stem in (HALF, EXACT) if made.fits_half else (EXACT,):
            on_step(f"checking with {16 if stem == HALF else 32} bits")
            param, weights = (workdir / f"{stem}.{ending}" for ending in ("param", "bin"))
            try:
                agreement = await check(
                    made.scale, expected, param, weights, workdir, libraries=libraries,
                    looks_like_source=looks_like_source, on_step=on_step,
                )  # fmt: skip
                break
            except DisagreementError:
                if stem == EXACT:
                    raise
        card = ModelCard(
            license=request.license, author=request.author, description=request.description,
            source=request.origin, architecture=made.architecture, size=made.size,
            parameters=made.parameters, original_sha256=made.sha256,
        )  # fmt: skip
        await asyncio.to_thread(_put, request, param, weights, card, models_dir, name)
    return Imported(
        name, made.architecture, made.size, made.scale, made.parameters, stem == HALF, agreement
    )


def _libraries() -> tuple[CpuLibrary, ...]:
    """Return the libraries that run networks here, ncnn always.

    Where bfloat16 is used, the engine compares it with 32 bits itself; here 32 bits are checked.
    """
    chosen = choose_library("auto")
    exact = CpuLibrary.OPENVINO if chosen is CpuLibrary.OPENVINO_BF16 else chosen
    return tuple(dict.fromkeys([CpuLibrary.NCNN, exact]))


def _put(
    request: ImportRequest,
    param: Path,
    weights: Path,
    card: ModelCard,
    models_dir: Path,
    name: str,
) -> None:
    """Rename the pair into place: the ``.param`` last, since it makes the pair complete.

    Raises:
        ConversionError: the name was taken in the meantime.
    """
    for path in (param, weights):
        files.sync(path)
    with work_folders.alone(models_dir):
        check_free(request, models_dir, name)
        write_card(card_path(models_dir, name), card)
        weights.replace(models_dir / f"{name}.bin")
        param.replace(models_dir / f"{name}.param")
        files.sync(models_dir)
