"""The progress of one picture, where nobody sees a bar."""

from __future__ import annotations

import io

from upscaled.commands.progress import ProgressBar


def test_each_line_is_written_once_and_the_last_one_says_100() -> None:
    stream = io.StringIO()
    bar = ProgressBar(stream, "a.png")
    for percent in [*range(0, 100, 3), 100, 100]:
        bar.show(percent)
    bar.close()
    lines = stream.getvalue().splitlines()
    assert lines == list(dict.fromkeys(lines))
    assert lines[-1] == "a.png: 100 %"
    assert 10 <= len(lines) <= 11
