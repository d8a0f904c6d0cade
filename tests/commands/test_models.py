"""``upscaled models import`` as a user types it."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from importlib.metadata import requires
from pathlib import Path

import pytest
from PIL import Image

from testkit import checkpoints
from upscaled.models.packs import PACKS


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
    assert "page.pth is a web page, not a model." in done.stderr
    assert "Traceback" not in done.stderr
    missing = upscaled("models", "import", str(tmp_path / "gone.pth"), **models)
    assert missing.returncode == 1
    assert "gone.pth: No such file or directory." in missing.stderr
    os.mkfifo(tmp_path / "pipe.pth")
    pipe = upscaled("models", "import", str(tmp_path / "pipe.pth"), **models)
    assert pipe.returncode == 1
    assert "pipe.pth is not a regular file; name the model's file." in pipe.stderr


def test_the_list_says_how_quick_each_model_is_here_as_the_server_learned_it(
    tmp_path: Path, models: dict[str, str], models_dir: Path
) -> None:
    models["UPSCALED_UPSCALER_MODELS_PATH"] = str(models_dir)
    before = upscaled("models", **models)
    assert before.returncode == 0, before.stderr
    (line,) = [line for line in before.stdout.splitlines() if line.startswith("realesrgan-x4plus ")]
    assert re.search(r"\[BSD-3-Clause\]  about [0-9.]+ s/MP$", line)
    # As a service writes it: three pictures of a padded megapixel took 7 seconds each.
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    with closing(sqlite3.connect(data / "jobs.sqlite3")) as database:
        database.execute("CREATE TABLE rates (key TEXT PRIMARY KEY, document TEXT NOT NULL)")
        for library in ("ncnn", "openvino", "openvino-bf16"):
            key = f"upscale builtin cpu CPU realesrgan-x4plus {library}"
            document = json.dumps([[1.0e6, 7.0]] * 3)
            database.execute("INSERT INTO rates VALUES (?, ?)", (key, document))
        database.commit()
    after = upscaled("models", **models)
    (line,) = [line for line in after.stdout.splitlines() if line.startswith("realesrgan-x4plus ")]
    found = re.search(r"\[BSD-3-Clause\]  ([0-9.]+) s/MP$", line)
    assert found is not None, line
    assert 7 <= float(found[1]) < 20


_WITHOUT_PYTORCH = """
import sys
from pathlib import Path

class Refusing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"torch", "torchvision", "spandrel", "pnnx", "onnx"}:
            raise AssertionError(f"{name} is imported")

sys.meta_path.insert(0, Refusing())
import upscaled.models.conversion.importing
from upscaled.models.conversion import worker
from upscaled.models.conversion.converting import Conversion
source, workdir = map(Path, sys.argv[1:])
made = worker._converted(Conversion(source, workdir, "m.pth", None, 1 << 12), print)
assert not any(name.partition(".")[0] == "torch" for name in sys.modules)
print(made["architecture"], sorted(path.name for path in workdir.iterdir()))
"""


def test_importing_needs_no_pytorch(tmp_path: Path) -> None:
    # Not of the package, and not of the environment that tests run in.
    needed = [text for text in requires("upscaled") or [] if "extra ==" not in text]
    assert not [text for text in needed if re.match("torch|spandrel|pnnx|onnx", text)]
    path, workdir = tmp_path / "m.pth", tmp_path / "work"
    path.write_bytes(checkpoints.pth(checkpoints.compact("prelu")))
    workdir.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_PYTORCH, str(path), str(workdir)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("Compact ['exact.bin', 'exact.param', ")


def test_the_help_names_every_pack() -> None:
    told = upscaled("models", "install", "--help").stdout
    assert [name for name in PACKS if not re.search(rf"\b{name}\b", told)] == []


def test_official_models_are_installed_with_their_licences(models: dict[str, str]) -> None:
    done = upscaled("models", "install", **models)
    assert done.returncode == 0, done.stderr
    assert "realesrgan-x4plus  General purpose, high quality  [BSD-3-Clause]" in done.stdout


def test_where_only_commercial_use_is_wanted_other_models_are_neither_taken_nor_shown(
    tmp_path: Path, models: dict[str, str]
) -> None:
    published = tmp_path / "tiny.pth"
    published.write_bytes(checkpoints.pth(checkpoints.compact("prelu")))
    strict = {**models, "UPSCALED_UPSCALER_COMMERCIAL_MODELS_ONLY": "true"}
    for licence in ((), ("--license", "CC BY-NC 4.0")):
        refused = upscaled("models", "import", str(published), *licence, **strict)
        assert refused.returncode == 1
        assert "upscaler.commercial_models_only); name it with --license." in refused.stderr
    assert not list((tmp_path / "models").glob("*"))
    assert upscaled("models", "install", **models).returncode == 0
    taken = upscaled("models", "import", str(published), "--license", "CC-BY-NC-4.0", **models)
    assert taken.returncode == 0, taken.stderr
    strict_list = upscaled("models", **strict)
    assert "tiny" not in strict_list.stdout
    assert "left out: tiny: Its licence is CC-BY-NC-4.0" in strict_list.stderr
    # The doctor neither tries a hidden model nor recommends it.
    doctor = upscaled("doctor", "--json", **strict, UPSCALED_UPSCALER_GPU_IDS="-1")
    report = json.loads(doctor.stdout)
    assert report["problems"] == []
    assert "tiny" not in {model["name"] for model in report["models"]}
    assert "tiny " not in (report["advice"] or "")
