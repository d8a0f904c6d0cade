"""Unusable pictures are refused with a reason, cost little, and affect no other picture."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest

from testkit.imaging import enlarged, finished
from testkit.pictures import encoded
from testkit.traps import Trap, harmless_monsters, traps
from testkit.zoo import CARD
from upscaled.errors import NotAPictureError, UnusablePictureError, UpscaledError
from upscaled.imaging import FinishOptions, Imaging

pytestmark = pytest.mark.asyncio(loop_scope="module")

MEMORY = 400 << 20


def _resident(imaging: Imaging) -> int:
    """Return the resident memory of the imaging processes."""
    pids = [worker.pid for worker in imaging._pool._workers if worker.pid is not None]
    running = [psutil.Process(pid) for pid in pids]
    family = [*running, *(child for process in running for child in process.children())]
    assert family
    return sum(process.memory_info().rss for process in family)


@pytest.mark.parametrize("trap", list(traps()), ids=lambda trap: trap.name)
async def test_is_refused_with_its_sentence(trap: Trap, imaging: Imaging, tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(trap.data)
    with pytest.raises(trap.error) as caught:
        await imaging.probe(upload)
        await imaging.prepare(upload, tmp_path)
    assert trap.words in caught.value.message
    assert caught.value.message.endswith(".")
    assert str(tmp_path) not in caught.value.message
    assert _resident(imaging) < MEMORY


async def test_many_headers_are_told_as_each_alone(imaging: Imaging, tmp_path: Path) -> None:
    files = {f"trap-{number}": trap.data for number, trap in enumerate(traps())}
    files |= {f"good-{kind}": encoded(CARD, kind) for kind in ("PNG", "JPEG", "WEBP", "TIFF")}
    uploads = [tmp_path / name for name in files]
    for upload, content in zip(uploads, files.values(), strict=True):
        upload.write_bytes(content)
    found = await imaging.probe_all(uploads)
    assert len(found) == len(uploads)
    for upload, one in zip(uploads, found, strict=True):
        try:
            alone: object = await imaging.probe(upload)
        except UpscaledError as error:
            assert isinstance(one, type(error)), upload.name
            assert one.message == error.message
        else:
            assert one == alone
    assert _resident(imaging) < MEMORY


@pytest.mark.parametrize(("name", "data"), list(harmless_monsters()), ids=lambda value: None)
async def test_monstrous_metadata_is_left_behind(
    name: str, data: bytes, imaging: Imaging, tmp_path: Path
) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(data)
    prepared = await imaging.prepare(upload, tmp_path)
    native = enlarged(prepared)
    for kind in ("png", "jpg"):
        done = await finished(imaging, prepared, native, tmp_path, FinishOptions(kind, native.size))
        assert done.file_size_bytes < 1_000_000, name
    assert _resident(imaging) < MEMORY


async def test_a_format_that_is_switched_off_is_refused_by_name(tmp_path: Path) -> None:
    upload = tmp_path / "upload.png"
    upload.write_bytes(encoded(CARD, "TIFF"))
    picky = Imaging(max_pixels=10_000, formats=("png", "webp"))
    try:
        with pytest.raises(NotAPictureError, match=r"TIFF.*send PNG or WebP"):
            await picky.probe(upload)
    finally:
        await picky.close()


async def test_a_decoder_that_needs_too_much_time_is_ended(tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(encoded(CARD.resize((9000, 9000)), "PNG", compress_level=1))
    hasty = Imaging(max_pixels=10**8, cpu_seconds=1)
    try:
        await hasty.warm()
        with pytest.raises(UnusablePictureError, match="processor time"):
            await hasty.prepare(upload, tmp_path)
        upload.write_bytes(encoded(CARD, "PNG"))
        assert (await hasty.probe(upload)).format == "png"
    finally:
        await hasty.close()


async def test_a_picture_larger_than_the_memory_limit_is_refused(tmp_path: Path) -> None:
    upload = tmp_path / "upload"
    upload.write_bytes(encoded(CARD.resize((9000, 9000)), "PNG", compress_level=1))
    small = Imaging(max_pixels=10**8, memory_limit_mb=300)
    try:
        with pytest.raises(UnusablePictureError, match="more memory"):
            await small.prepare(upload, tmp_path)
        upload.write_bytes(encoded(CARD, "PNG"))
        assert (await small.prepare(upload, tmp_path)).alpha is None
    finally:
        await small.close()


async def test_small_pictures_are_decoded_on_arrival_and_what_is_broken_is_told_at_once(
    imaging: Imaging, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = tmp_path / "upload"
    whole = encoded(CARD.resize((600, 600)), "PNG")
    upload.write_bytes(whole)
    probe, prepared = await imaging.receive(upload, tmp_path)
    assert prepared is not None
    assert prepared == await imaging.prepare(upload, tmp_path)
    assert probe.size == prepared.source.size
    upload.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UnusablePictureError, match="cut off"):
        await imaging.receive(upload, tmp_path)
    upload.write_bytes(encoded(CARD, "JPEG")[:-400])
    with pytest.raises(UnusablePictureError, match="cut off"):
        await imaging.receive(upload, tmp_path)
    monkeypatch.setattr("upscaled.imaging.imaging._LOOK_PIXELS", 600 * 599)
    upload.write_bytes(whole)
    assert (await imaging.receive(upload, tmp_path))[1] is None


async def test_a_picture_made_to_keep_its_decoder_busy_does_not_hold_up_its_arrival(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("upscaled.imaging.imaging._LOOK_PIXELS", 10**8)
    monkeypatch.setattr("upscaled.imaging.imaging._LOOK_SECONDS", 1)
    busy = Imaging(max_pixels=10**8)
    upload = tmp_path / "upload"
    upload.write_bytes(encoded(CARD.resize((9900, 9900)), "PNG", compress_level=1))
    try:
        probe, prepared = await busy.receive(upload, tmp_path)
    finally:
        await busy.close()
    assert (probe.size.width, prepared) == (9900, None)
