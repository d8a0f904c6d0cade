"""Exchanging files with the native program can be stopped at any time."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from PIL import Image

from upscaled.engines.binary import exchange
from upscaled.engines.binary.exchange import StoppedError, read_output, write_inputs
from upscaled.engines.engine import ModelFiles, UpscaleTask
from upscaled.errors import EngineError
from upscaled.pictures import RawImage, Size

PIXELS = bytes(range(240)) * 5


@pytest.fixture
def task(tmp_path: Path) -> UpscaleTask:
    """Rows 12 to 15 of a picture of 10×40 pixels, with a network that doubles."""
    for suffix in ("param", "bin"):
        (tmp_path / f"model.{suffix}").touch()
    model = ModelFiles(tmp_path / "model.param", tmp_path / "model.bin", 2, "in0", "out0", 0)
    source = RawImage(tmp_path / "source.rgb", Size(10, 40))
    source.path.write_bytes(PIXELS)
    target = RawImage(tmp_path / "native.rgb", Size(20, 80))
    target.path.write_bytes(bytes(target.total_bytes))
    return UpscaleTask(source, target, model, 12, 15)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "exchange"
    made.mkdir()
    return made


def write_result(folder: Path, size: tuple[int, int], mode: str = "RGB") -> Path:
    path = folder / exchange.TARGET
    Image.effect_noise(size, 90).convert(mode).save(path)
    return path


def test_the_program_gets_the_rows_with_their_context(task: UpscaleTask, folder: Path) -> None:
    write_inputs(task, folder, threading.Event())
    with Image.open(folder / exchange.SOURCE) as picture:
        assert (picture.size, picture.mode) == ((10, 23), "RGB")
        assert picture.tobytes() == PIXELS[2 * 30 : 25 * 30]
    assert (folder / "models" / "network.param").samefile(task.model.param)
    assert (folder / "models" / "network.bin").samefile(task.model.bin)


def test_a_result_of_any_size_is_read_whatever_limit_is_set_for_uploads(
    task: UpscaleTask, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30)
    monkeypatch.setattr(exchange, "_CHUNK_BYTES", 100)  # several strips
    path = write_result(folder, (20, 46))
    read_output(task, folder, threading.Event())
    monkeypatch.undo()
    with Image.open(path) as picture:
        rows = picture.crop((0, 20, 20, 26)).tobytes()
    assert task.target.path.read_bytes() == bytes(24 * 60) + rows + bytes(50 * 60)


@pytest.mark.parametrize(("size", "mode"), [((20, 45), "RGB"), ((10, 23), "RGB"), ((20, 46), "L")])
def test_a_result_of_another_shape_is_refused(
    task: UpscaleTask, folder: Path, size: tuple[int, int], mode: str
) -> None:
    write_result(folder, size, mode)
    with pytest.raises(EngineError, match="where 20×46 RGB was expected"):
        read_output(task, folder, threading.Event())


def test_no_part_of_a_result_is_enough_but_the_whole(task: UpscaleTask, folder: Path) -> None:
    path = write_result(folder, (20, 46))
    whole = path.read_bytes()
    # The last 24 bytes are the end of the stream, its checksums and the end mark: without them
    # every pixel may be there, and Pillow does not ask for more.
    for length in range(0, len(whole) - 32, 7):
        path.write_bytes(whole[:length])
        with pytest.raises(EngineError, match="no whole PNG"):
            read_output(task, folder, threading.Event())
    assert not any(task.target.path.read_bytes())


def test_writing_and_reading_end_when_told_to_stop(task: UpscaleTask, folder: Path) -> None:
    write_result(folder, (20, 46))
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        write_inputs(task, folder, stop)
    with pytest.raises(StoppedError):
        read_output(task, folder, stop)
    assert not any(task.target.path.read_bytes())
