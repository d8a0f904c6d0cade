"""``upscaled models import`` as a user types it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from testkit import checkpoints


def upscaled(*arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command."""
    return subprocess.run(
        [sys.executable, "-m", "upscaled", *arguments],
        env={"PATH": "/usr/bin:/bin", **env}, capture_output=True, text=True, check=False,
        timeout=240,
    )  # fmt: skip


@pytest.fixture
def models(tmp_path: Path) -> dict[str, str]:
    """The settings that name an empty models folder."""
    return {
        "UPSCALED_UPSCALER_MODELS_PATH": str(tmp_path / "models"),
        "UPSCALED_STORAGE_DATA_DIR": str(tmp_path / "data"),
        "UPSCALED_UPSCALER_ENGINE": "builtin",
    }


def test_a_published_file_becomes_a_model_that_upscales(
    tmp_path: Path, models: dict[str, str], models_dir: Path
) -> None:
    stem = models_dir / "realesr-animevideov3-x4"
    tensors = checkpoints.of_official(
        stem.with_suffix(".param"), stem.with_suffix(".bin"), "compact"
    )
    published = tmp_path / "4x My_Model.pth"
    published.write_bytes(checkpoints.pth(tensors, within="params_ema"))
    done = upscaled("models", "import", str(published), "--license", "BSD-3-Clause", **models)
    assert done.returncode == 0, done.stderr
    assert "4x-My_Model  ×4  Compact, 64 features, 18 convolutions, prelu, 0.62 million" in (
        done.stdout
    )
    assert "equals the original to" in done.stdout
    assert done.stderr == ""
    listed = upscaled("models", **models)
    assert "4x-My_Model  ×4" in listed.stdout
    picture, result = tmp_path / "in.png", tmp_path / "out.png"
    Image.new("RGB", (20, 12), (200, 120, 40)).save(picture)
    models["UPSCALED_UPSCALER_DEFAULT_MODEL"] = "4x-My_Model"
    made = upscaled("upscale", str(picture), str(result), **models)
    assert made.returncode == 0, made.stderr
    with Image.open(result) as image:
        assert image.size == (80, 48)


def test_a_file_that_is_no_model_is_refused_with_a_sentence(
    tmp_path: Path, models: dict[str, str]
) -> None:
    wrong = tmp_path / "page.pth"
    wrong.write_text("<html>Not found</html>")
    done = upscaled("models", "import", str(wrong), **models)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "page.pth is no .pth, .pt or .safetensors file" in done.stderr
    assert "Traceback" not in done.stderr
    missing = upscaled("models", "import", str(tmp_path / "gone.pth"), **models)
    assert missing.returncode == 1
    assert "gone.pth: No such file or directory." in missing.stderr


def test_importing_needs_no_pytorch(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    path.write_bytes(checkpoints.pth(checkpoints.compact("prelu")))
    code = (
        "import sys; sys.modules['torch'] = sys.modules['spandrel'] = None\n"  # forbids them
        "from pathlib import Path\n"
        "import upscaled.models.conversion.importing\n"
        "from upscaled.models.conversion.weights import read_weights\n"
        "print(len(read_weights(Path(sys.argv[1]))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == len(checkpoints.compact("prelu"))
