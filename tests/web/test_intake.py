"""Ways for pictures to come into the page: dropped, pasted, and as a folder."""

from __future__ import annotations

import base64
import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageCms, ImageStat
from playwright.async_api import expect

from testkit.browser import largest_tab
from testkit.paths import DATA
from testkit.web_page import WebPage

pytestmark = pytest.mark.asyncio(loop_scope="package")

MOST_MEMORY = 250e6
"""Bytes of a tab in which a picture of 100 megapixels was chosen; its pixels alone are 400 MB."""
PIXELS = """async (image) => {
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.naturalWidth;
  canvas.height = image.naturalHeight;
  canvas.getContext("2d").drawImage(image, 0, 0);
  return canvas.toDataURL("image/png");
}"""
"""What an image shows, as the address of a PNG."""
_HAND_OVER = """([kind, files]) => {
  const carried = new DataTransfer();
  for (const [name, type, content] of files) {
    const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
    carried.items.add(new File([bytes], name, { type }));
  }
  const options = { bubbles: true, cancelable: true };
  if (kind === "paste") {
    document.body.dispatchEvent(new ClipboardEvent(kind, { ...options, clipboardData: carried }));
    return true;
  }
  const tell = (name) => !document.body.dispatchEvent(
    new DragEvent(name, { ...options, dataTransfer: carried }));
  tell("dragenter");
  const shown = !document.getElementById("veil").hidden;
  return shown && tell("dragover") && tell("drop") && document.getElementById("veil").hidden;
}"""
"""Tells whether the page took what was dropped, and showed that it would."""


async def hand_over(web: WebPage, kind: str, *pictures: Path) -> bool:
    files = [
        (picture.name, "image/png", base64.b64encode(picture.read_bytes()).decode())
        for picture in pictures
    ]
    return bool(await web.page.evaluate(_HAND_OVER, [kind, files]))


async def test_dropped_pictures_are_taken(web: WebPage, photo: Path, tmp_path: Path) -> None:
    other = shutil.copy(photo, tmp_path / "other.png")
    assert await hand_over(web, "drop", photo, Path(other))
    await expect(web.page.locator("#estimate")).not_to_be_empty()
    await web.choose_model()
    await web.page.locator("#send").click()
    for name in (photo.name, "other.png"):
        await web.completed(name)


async def test_a_pasted_picture_is_taken(web: WebPage, photo: Path) -> None:
    assert await hand_over(web, "paste", photo)
    await expect(web.page.locator("#estimate")).not_to_be_empty()
    await web.choose_model()
    await web.page.locator("#send").click()
    await web.completed(photo.name)


async def test_a_folder_gives_its_pictures_and_nothing_else(
    web: WebPage, photo: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "holiday"
    (folder / "beach").mkdir(parents=True)
    shutil.copy(photo, folder / "one.png")
    shutil.copy(photo, folder / "beach" / "two.png")
    (folder / "notes.txt").write_text("not a picture")
    async with web.page.expect_file_chooser() as choosing:
        await web.page.locator("#choose-folder").click()
    await (await choosing.value).set_files(folder)
    await expect(web.page.locator("#estimate")).not_to_be_empty()
    await web.choose_model()
    await web.page.locator("#send").click()
    for name in ("one.png", "two.png"):
        await web.completed(name)
    assert await web.row("notes.txt").count() == 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize("suffix", ["png", "jpg"])
async def test_a_source_of_a_hundred_megapixels_stays_small_in_the_tab(
    web: WebPage, tmp_path: Path, suffix: str
) -> None:
    source = tmp_path / f"huge.{suffix}"
    with Image.open(DATA / "coffee.jpg") as picture:
        huge = picture.convert("RGB").resize((10_000, 10_000))
    huge.save(source, quality=90, compress_level=1)
    await web.page.set_input_files("#files", [source])
    shown = web.page.locator(".crop-holder img")
    await shown.wait_for(timeout=120_000)
    assert await shown.evaluate("(image) => image.decode().then(() => image.naturalWidth)") < 2000
    assert largest_tab() < MOST_MEMORY
    await expect(web.page.locator(".strip-pick img")).to_have_count(1)
    await web.page.locator("#preview").click(timeout=120_000)
    part = web.page.locator(".preview-card img").first
    text = await part.evaluate(PIXELS)
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as cut:
        start = (10_001 - cut.width) // 2  # half a pixel is rounded up
        wanted = huge.crop((start, start, start + cut.width, start + cut.height))
        difference = ImageStat.Stat(ImageChops.difference(cut.convert("RGB"), wanted)).extrema
    most = 0 if suffix == "png" else 60  # what JPEG changes
    assert max(high for _, high in difference) <= most
    assert largest_tab() < MOST_MEMORY


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "I;16"])
async def test_stand_ins_of_large_pictures_look_like_them(
    web: WebPage, tmp_path: Path, mode: str
) -> None:
    source, profile = tmp_path / "large.png", ImageCms.createProfile("sRGB")
    with Image.open(DATA / "coffee.jpg") as picture:
        large = picture.resize((5003, 4001))
    if mode in {"RGBA", "LA"}:
        large.putalpha(Image.linear_gradient("L").resize(large.size))
    if mode == "I;16":
        large = Image.fromarray(np.asarray(large.convert("L")).astype(np.uint16) * 257)
    else:
        large = large.convert(mode)
    large.save(source, compress_level=1, icc_profile=ImageCms.ImageCmsProfile(profile).tobytes())
    await web.page.set_input_files("#files", [source])
    shown = web.page.locator(".crop-holder img")
    await shown.wait_for(timeout=120_000)
    text = await shown.evaluate(PIXELS)
    with Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))) as small:
        assert 0.5 < small.width * small.height / 2.5e6 <= 1.01
        eight: Image.Image = Image.open(source)
        if mode == "I;16":
            eight = Image.fromarray((np.asarray(eight) >> 8).astype(np.uint8))
        wanted = np.asarray(eight.convert("RGBA").resize((40, 32), Image.Resampling.BOX), float)
        found = np.asarray(small.convert("RGBA").resize((40, 32), Image.Resampling.BOX), float)
    solid = wanted[..., 3] > 64
    assert np.abs(found[..., 3] - wanted[..., 3]).max() < 6
    assert np.abs(found[solid][:, :3] - wanted[solid][:, :3]).max() < 12
