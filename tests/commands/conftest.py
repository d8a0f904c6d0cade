"""Fixtures of the command line's tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def env(models_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment without other settings: the quickest model, no GPU, a shared data folder."""
    models = tmp_path_factory.mktemp("quick-models")
    for file in models_dir.glob("realesr-animevideov3-*"):
        (models / file.name).symlink_to(file)
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("UPSCALED_", "PYTHON"))}
    return {
        **kept,
        "UPSCALED_UPSCALER_MODELS_PATH": str(models),
        "UPSCALED_UPSCALER_DEFAULT_MODEL": "realesr-animevideov3",
        "UPSCALED_UPSCALER_ENGINE": "builtin",
        "UPSCALED_UPSCALER_GPU_IDS": "-1",
        "UPSCALED_STORAGE_DATA_DIR": str(tmp_path_factory.mktemp("data")),
    }
