"""Parses the native program's standard error: percentages, devices, failures, last words.

It is parsed whatever the exit status, which is unreliable.
"""

from __future__ import annotations

import re

_LINE_LIMIT = 2048
"""Bytes of a line that are parsed; the rest of a longer one is dropped."""
_WORDS_LIMIT = 300

_PERCENT = re.compile(r"(?<![\w.,])(\d{1,3}(?:[.,]\d{1,6})?)\s?%")
_DEVICE = re.compile(r"^\[(\d+) (.+?)\](?:\s|$)")
_FAILURE = re.compile(
    r"""
      \bvk[A-Z]\w*\ failed\b            # every Vulkan call is reported like this
    | \bfailed(?:\ -?\d+)?\W*$          # decode image … failed, fopen … failed, parse … failed -1
    | ^\W*Error:                        # upscayl-bin's own
    | \b(?i:invalid\ (?:gpu\ device|queue_family_index|tile\ size|thread))
    | \bnot\ exists\ or\ registered\b   # a layer this build does not know
    | \bnetwork\ graph\ not\ ready\b
    | \bparam\ is\ too\ old\b
    | \bcan't\ be\ run:                 # our launcher's
    | \berror\ while\ loading\ shared\ libraries\b
    """,
    re.VERBOSE,
)
# Messages of drivers and loaders about devices that may not be in use, and of ncnn reading the
# processor's features where /proc is hidden.
_HARMLESS = re.compile(r"^(?:MESA|lib\w*GL|TU|radv|WARNING)\b|/proc/self/auxv", re.IGNORECASE)
_ESCAPE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_JUNK = re.compile(r"[^\x20-\x7e\u00a0-\u024f]+")


class ProgramOutput:
    """Parses standard error as it arrives, and keeps a bounded amount of it."""

    def __init__(self) -> None:
        self.progress = 0.0
        """The highest percentage seen, as a share: 0.0 to 1.0."""
        self.devices: dict[int, str] = {}
        """Vulkan devices by index, as the banner names them."""
        self.failure = ""
        """The first line that reports a failure; empty while there is none."""
        self._last = ""
        self._line = bytearray()

    def feed(self, data: bytes) -> bool:
        """Parse the next bytes; return True when `progress` grew."""
        before = self.progress
        *lines, rest = data.replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            self._line += line[: _LINE_LIMIT - len(self._line)]
            self._take(self._line)
            self._line.clear()
        self._line += rest[: _LINE_LIMIT - len(self._line)]
        return self.progress > before

    def finish(self) -> None:
        """Parse what follows the last line's end."""
        self.feed(b"\n")

    @property
    def last_words(self) -> str:
        """The failure, else the last line that is neither a percentage nor the banner."""
        return self.failure or self._last

    def _take(self, raw: bytes | bytearray) -> None:
        line = _ESCAPE.sub("", raw.decode("utf-8", "replace")).strip()
        if not line:
            return
        if percent := _PERCENT.search(line):
            share = float(percent[1].replace(",", ".")) / 100
            if share <= 1:
                self.progress = max(self.progress, share)
            return
        if device := _DEVICE.match(line):
            self.devices.setdefault(int(device[1]), device[2])
            return
        words = " ".join(_JUNK.sub(" ", line).split())[:_WORDS_LIMIT]
        if not words:
            return
        self._last = words
        if not self.failure and _FAILURE.search(line) and not _HARMLESS.search(line):
            self.failure = words
