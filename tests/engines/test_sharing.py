"""Tasks under way at once keep to one room."""

from __future__ import annotations

import threading

from upscaled.engines.sharing import Sharing

_SECONDS = 20


def test_tasks_wait_for_room_beside_others_and_one_alone_never_does() -> None:
    sharing = Sharing()
    entered, leave = threading.Event(), threading.Event()
    alone: list[bool] = []

    def late() -> None:
        with sharing.taking(60, room=100) as is_alone:
            alone.append(is_alone)
            entered.set()
            leave.wait(_SECONDS)

    with sharing.taking(500, room=100) as first:  # more than there is
        assert first
    with sharing.taking(30, room=100), sharing.taking(30, room=100) as second:
        assert not second
        thread = threading.Thread(target=late)
        thread.start()
        assert not entered.wait(0.2)  # 120 would be too much
    assert entered.wait(_SECONDS)
    leave.set()
    thread.join(_SECONDS)
    assert alone in ([True], [False])  # whether the second was still leaving
