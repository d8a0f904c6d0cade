"""The native program's standard error is parsed correctly, however odd it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.engines.binary.output import ProgramOutput


def heard(text: str | bytes) -> ProgramOutput:
    output = ProgramOutput()
    output.feed(text.encode() if isinstance(text, str) else text)
    output.finish()
    return output


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("12.50%", 0.125),
        ("12,50%", 0.125),
        ("⏳ 12,50% ✨", 0.125),
        ("7%", 0.07),
        ("  33.33 %\r", 0.3333),
        ("\x1b[32m45.00%\x1b[0m", 0.45),
        ("0.00%\r10.00%\r20.00%", 0.2),
        ("100.00%", 1.0),
        ("999.00%", 0.0),
        ("1234%", 0.0),
        ("no number %", 0.0),
    ],
)
def test_a_percentage_is_read_whatever_is_around_it(line: str, share: float) -> None:
    assert heard(line).progress == pytest.approx(share)


def test_progress_never_goes_back() -> None:
    output = ProgramOutput()
    seen = []
    for line in ("10.00%\n", "50.00%\n", "20.00%\n", "50.00%\n", "60.00%\n"):
        grew = output.feed(line.encode())
        seen.append((grew, output.progress))
    assert seen == [(True, 0.1), (True, 0.5), (False, 0.5), (False, 0.5), (True, 0.6)]


def test_a_percentage_cut_in_two_reads_is_one() -> None:
    output = ProgramOutput()
    assert not output.feed(b"1")
    assert not output.feed(b"2.5")
    assert output.feed(b"0%\n")
    assert output.progress == 0.125


@pytest.mark.parametrize(
    "line",
    [
        "vkAllocateMemory failed -2",
        "vkQueueSubmit failed -4",
        "vkWaitForFences failed",
        "decode image source.ppm failed",
        "encode image target.png failed",
        "invalid gpu device",
        "🚨 Error: Invalid GPU Device",
        "🚨 Error: Couldn't read the image 'source.ppm'!",
        "fopen /opt/models/network.param failed",
        "layer PixelWarp not exists or registered",
        "find_blob_index_by_name data failed",
        "network graph not ready",
        "ModelBin read weight_data failed 0",
        "parse magic failed",
        "param is too old, please regenerate",
    ],
)
def test_a_line_that_reports_a_failure_is_noticed_and_kept(line: str) -> None:
    output = heard(f"0.00%\n{line}\n50.00%\nsomething later\n")
    assert output.failure == line.replace("🚨 ", "")
    assert output.last_words == output.failure


@pytest.mark.parametrize(
    "line",
    [
        "🙌 Upscayled Successfully!",
        "WARNING: lavapipe is not a conformant vulkan implementation, testing use only.",
        "MESA-INTEL: warning: Performance support disabled, consider sysctl",
        "error: XDG_RUNTIME_DIR is invalid or not set in the environment.",
        "libEGL warning: DRI3: failed to query the version",
        "fopen /proc/self/auxv failed",
        "[0 AMD Radeon failed]  queueC=1[4]",
        "Failed attempts so far: 0",
    ],
)
def test_chatter_is_no_failure(line: str) -> None:
    assert heard(line).failure == ""


def test_the_banner_names_the_devices() -> None:
    output = heard(
        "[0 NVIDIA GeForce RTX 3060]  queueC=2[8]  queueG=0[16]\n"
        "[0 NVIDIA GeForce RTX 3060]  bugsbn1=0  bugbilz=0\n"
        "[1 llvmpipe (LLVM 15.0.6, 256 bits)]  queueC=0[1]\n"
    )
    assert output.devices == {
        0: "NVIDIA GeForce RTX 3060",
        1: "llvmpipe (LLVM 15.0.6, 256 bits)",
    }
    assert output.last_words == ""


def test_last_words_are_one_short_line_of_printable_text() -> None:
    words = heard("🚀 first\n\x1b[31m\x00 the \x07end 🙌 " + "x" * 5000).last_words
    assert words.startswith("the end xxx")
    assert len(words) == 300
    assert words.isprintable()


def test_output_without_end_is_not_kept() -> None:
    output = ProgramOutput()
    for _ in range(2000):
        output.feed(b"chatter" * 1000)
    assert len(output._line) <= 2048
    output.feed(b"\n40.00%\n")
    assert output.progress == 0.4


@given(st.lists(st.binary(max_size=300), max_size=20))
def test_no_bytes_whatever_break_it(chunks: list[bytes]) -> None:
    output = ProgramOutput()
    for chunk in chunks:
        output.feed(chunk)
        assert 0.0 <= output.progress <= 1.0
    output.finish()
    assert len(output.last_words) <= 300
