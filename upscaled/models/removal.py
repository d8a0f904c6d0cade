"""Deletes models that were imported."""

from __future__ import annotations

from pathlib import Path

from upscaled import files
from upscaled.errors import WrongStateError
from upscaled.models.card import card_path, read_card
from upscaled.models.catalog import Model


def remove_imported(models_dir: Path, model: Model) -> None:
    """Delete the pairs and cards of an imported model; blocking.

    Raises:
        WrongStateError: a network of it was not imported; nothing is deleted then.
        OSError: a file can't be deleted.
    """
    stems = [network.stem for network in model.files.values()]
    for stem in stems:
        try:
            card = read_card(card_path(models_dir, stem))
        except ValueError:
            card = None
        if card is None or card.original_sha256 is None:
            raise WrongStateError(
                f"{model.name} was not imported; whoever runs the server can delete "
                f"{stem}.param and {stem}.bin from the models folder."
            )
    for stem in stems:
        # The .param, which is written last, is deleted first: without it there is no model.
        for path in (models_dir / f"{stem}.param", models_dir / f"{stem}.bin"):
            path.unlink(missing_ok=True)
        card_path(models_dir, stem).unlink(missing_ok=True)
    files.sync(models_dir)
