"""Ways for pictures to come into the page: dropped, pasted, and as a folder."""

from __future__ import annotations

import base64
import shutil
from pathlib import Path

import pytest
from playwright.async_api import expect

from testkit.web_page import WebPage

pytestmark = pytest.mark.asyncio(loop_scope="package")

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
    await web.page.locator("#send").click()
    for name in (photo.name, "other.png"):
        await web.row(name, "completed").first.wait_for()


async def test_a_pasted_picture_is_taken(web: WebPage, photo: Path) -> None:
    assert await hand_over(web, "paste", photo)
    await expect(web.page.locator("#estimate")).not_to_be_empty()
    await web.page.locator("#send").click()
    await web.row(photo.name, "completed").first.wait_for()


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
    await web.page.locator("#send").click()
    for name in ("one.png", "two.png"):
        await web.row(name, "completed").first.wait_for()
    assert await web.row("notes.txt").count() == 0
