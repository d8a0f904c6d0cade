"""``upscaled models``: list them, install the official ones, import others."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from upscaled.config.settings import Config
from upscaled.errors import BadRequestError, UpscaledError

if TYPE_CHECKING:
    from upscaled.models.conversion.imported import Imported


async def list_models(options: argparse.Namespace, config: Config) -> int:
    """Print what is offered, and what is left out and why."""
    from upscaled.commands.model_speeds import shown_speed, speeds_of  # noqa: PLC0415
    from upscaled.models.card import UNKNOWN_LICENSE  # noqa: PLC0415
    from upscaled.models.catalog import ModelCatalog  # noqa: PLC0415

    catalog = ModelCatalog.of(config, commercial_only=getattr(options, "commercial_only", False))
    await catalog.rescan()
    try:
        speeds = await speeds_of(catalog, config)
    except UpscaledError as error:  # the list is of use without them
        print(f"speeds are not known: {error.message}", file=sys.stderr)
        speeds = {}
    for model in catalog.models:
        scales = ", ".join(f"×{scale}" for scale in model.supported_scales)
        licence = model.card.license or UNKNOWN_LICENSE
        speed = shown_speed(speeds.get(model.name, ()))
        print(f"{model.name}  {scales}  {model.description}  [{licence}]{speed}")
        if origin := model.card.origin_line:
            print(f"    {origin}")
    for rejected in catalog.rejected:
        print(f"left out: {rejected.name}: {rejected.reason}", file=sys.stderr)
    if not catalog.models:
        raise UpscaledError(f"There is no usable model in {config.models_dir}; "
                            "type: upscaled models install")  # fmt: skip
    return 0


async def install_models(options: argparse.Namespace, config: Config) -> int:
    """Put the models of a pack into the models folder."""
    from upscaled.models.card import OFFICIAL_CARDS  # noqa: PLC0415
    from upscaled.models.install import install, opened  # noqa: PLC0415
    from upscaled.models.packs import PACKS  # noqa: PLC0415

    pack = PACKS.get(options.pack)
    if pack is None:
        raise BadRequestError(
            f"There is no pack {options.pack!r}; there are: {', '.join(sorted(PACKS))}."
        )
    show_step(f"getting {pack.requirement}")
    async with opened(pack) as source:
        written = await asyncio.to_thread(
            install, config.models_dir, source, pack=pack, force=options.force
        )
    if written:
        print(f"Put {len(written)} files into {config.models_dir}.")
        for name, card in (pack.cards or OFFICIAL_CARDS).items():
            print(f"{name}  {card.description}  [{card.license}]")
    elif not options.quiet:
        print(f"All models are in {config.models_dir} already.")
    return 0


async def import_models(options: argparse.Namespace, config: Config) -> int:
    """Convert a published file, check it and offer it."""
    from upscaled.models.conversion.importing import import_model  # noqa: PLC0415
    from upscaled.models.conversion.request import (  # noqa: PLC0415
        ImportRequest,
        check_commercial,
    )

    request = ImportRequest(
        source=Path(options.file),
        name=options.name,
        license=options.license,
        author=options.author,
        description=options.description,
        origin=options.origin,
        activation=options.activation,
        replace=options.force,
    )
    if config.upscaler.commercial_models_only:
        check_commercial(request)
    try:
        await asyncio.to_thread(config.models_dir.mkdir, parents=True, exist_ok=True)
        made = await import_model(request, config.models_dir, on_step=show_step)
    except OSError as error:
        raise UpscaledError(f"{error.filename or options.file}: {error.strerror}.") from error
    print(described(made))
    if request.license is None:
        print(f"licence: unknown; write it into {config.models_dir / made.name}.yaml")
    return 0


def described(made: Imported) -> str:
    """Return what came of an import, in two lines."""
    from upscaled.models.card import counted  # noqa: PLC0415

    agreement = ", ".join(
        f"{value:.1f} dB on {library}" for library, value in made.agreement.decibels.items()
    )
    return (
        f"{made.name}  ×{made.scale}  {made.architecture}, {made.size}, "
        f"{counted(made.parameters)} parameters\n"
        f"equals the original to {agreement}; seams {made.agreement.seam_decibels:.1f} dB; "
        f"{16 if made.half else 32}-bit weights"
    )


def show_step(step: str) -> None:
    """Print what is being done, where a person sees it."""
    if sys.stderr.isatty():
        print(f"{step} …", file=sys.stderr)


def add_list_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``upscaled models`` and ``upscaled models list`` take."""
    parser.add_argument(
        "--commercial-only",
        action="store_true",
        default=argparse.SUPPRESS,
        help="leave out models whose licence is not known to allow commercial use",
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``upscaled models import`` takes."""
    parser.add_argument("file", metavar="FILE", help="a .pth, .pt or .safetensors file")
    parser.add_argument("--name", help="what to offer it as (default: the file's name)")
    parser.add_argument("--license", help="its licence, as an SPDX identifier such as CC-BY-4.0")
    parser.add_argument("--author", help="who trained it")
    parser.add_argument("--description", help="what it is for")
    parser.add_argument("--origin", metavar="URL", help="where it was published")
    parser.add_argument(
        "--activation",
        choices=("relu", "leakyrelu"),
        help="of a Compact network whose file does not name it",
    )
    parser.add_argument("--force", action="store_true", help="replace a model of the same name")
