"""Behaves as realesrgan-ncnn-vulkan does on its command line, for faults that can't be provoked.

It enlarges by repeating pixels. ``STAND_IN_FAULT`` names what goes wrong, ``STAND_IN_LOG`` a file
to write the arguments to. Only the standard library, so that it starts fast.
"""

import getopt
import json
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

FAULT = os.environ.get("STAND_IN_FAULT", "")
USAGE = """Usage: realesrgan-ncnn-vulkan -i infile -o outfile [options]...

  -h                   show this help
  -i input-path        input image path (jpg/png/webp) or directory
  -s scale             upscale ratio (can be 2, 3, 4. default=4)
  -n model-name        model name (default=realesr-animevideov3)
"""


def say(text: str) -> None:
    """Write a line to standard error at once."""
    os.write(2, (text + "\n").encode())


def png(width: int, height: int, rows: bytes) -> bytes:
    """Return an 8-bit RGB PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    stride = width * 3
    filtered = b"".join(b"\0" + rows[y * stride : (y + 1) * stride] for y in range(height))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(filtered, 1))
        + chunk(b"IEND", b"")
    )


def enlarged(source: Path, scale: int) -> tuple[int, int, bytes]:
    """Return width, height and samples of a P6 file, each pixel repeated ``scale`` times."""
    magic, size, depth, samples = source.read_bytes().split(b"\n", 3)
    assert (magic, depth) == (b"P6", b"255")
    width, height = map(int, size.split())
    assert len(samples) == width * height * 3
    out = bytearray()
    for y in range(height):
        row = samples[y * width * 3 : (y + 1) * width * 3]
        wide = b"".join(row[x : x + 3] * scale for x in range(0, len(row), 3))
        out += wide * scale
    return width * scale, height * scale, bytes(out)


def hang() -> None:
    """Do nothing for ever."""
    while True:
        signal.pause()


def main() -> int:
    """Parse the arguments, be faulty, enlarge."""
    try:
        pairs, rest = getopt.getopt(sys.argv[1:], "i:o:s:t:m:n:g:j:f:vxh")
    except getopt.GetoptError:
        pairs, rest = [("-h", "")], []
    options = dict(pairs)
    if rest or "-h" in options:
        say(USAGE)
        return 255
    if log := os.environ.get("STAND_IN_LOG"):
        Path(log).write_text(json.dumps({"argv": sys.argv[1:], "pid": os.getpid()}))
    model = Path(options["-m"], options["-n"])
    assert "models" in options["-m"]
    assert len(str(model)) < 200
    assert all(model.with_suffix(suffix).is_file() for suffix in (".param", ".bin"))
    say("[0 Stand-in]  queueC=0[1]  queueG=0[1]  queueT=0[1]")
    target = Path(options["-o"])
    width, height, rows = enlarged(Path(options["-i"]), int(options["-s"]))
    picture = png(width, height, rows)
    match FAULT:
        case "hang":
            say("12.50%")
            hang()
        case "ignore_sigterm":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            say("12.50%")
            hang()
        case "die_halfway":
            say("50.00%")
            target.write_bytes(picture[: len(picture) // 2])
            signal.raise_signal(signal.SIGSEGV)
        case "die_without_a_file":
            say("50.00%")
            signal.raise_signal(signal.SIGSEGV)
        case "endless_lines":
            while True:
                say("chatter " * 100)
        case "endless_line":
            while True:
                os.write(2, b"chatter" * 1000)
        case "no_file":
            say("100.00%")
            return 0
        case "truncated":
            target.write_bytes(picture[:-40])
            return 0
        case "no_png":
            target.write_bytes(b"these are no pixels")
            return 0
        case "wrong_size":
            target.write_bytes(png(width, height - 1, rows))
            return 0
        case "slow_decorated":
            for line in ("🚀 0,00%", "✨ 12,50% ✨", "⏳ 12,00 %", "50,00%", "999%", "🏁 100,00%"):
                say(line)
                time.sleep(0.02)  # so that the lines arrive one by one
        case "failure_line":
            say("vkQueueSubmit failed -4")
            say("99.00%")
        case "crash_after":
            target.write_bytes(picture)
            signal.raise_signal(signal.SIGSEGV)
        case "grandchild":
            child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
            say(f"grandchild {child.pid}")
            Path(os.environ["STAND_IN_LOG"]).write_text(json.dumps({"pid": child.pid}))
        case _:
            say("0.00%")
            say("50.00%")
    target.write_bytes(picture)
    return 0


sys.exit(main())
