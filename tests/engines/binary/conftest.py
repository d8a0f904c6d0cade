"""Fixtures: a model for the native program."""

from __future__ import annotations

from pathlib import Path

import pytest

from testkit.binary_tasks import model_of
from upscaled.engines.engine import ModelFiles


@pytest.fixture
def animevideo_x2(models_dir: Path) -> ModelFiles:
    return model_of(models_dir, "realesr-animevideov3-x2", 2)
