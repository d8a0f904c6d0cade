"""Tasks under way at once keep to one room, first come, first served."""

from __future__ import annotations

import threading

from upscaled.engines.builtin.memory_gate import Needs, Sharing

_SECONDS = 20


def needs(tiles: int, network: str = "net", *, weights: int = 10, room: int = 100) -> Needs[str]:
    return Needs(network, weights, tiles, room)


class Task:
    """A task in a thread of its own, which ends when it is told to."""

    def __init__(self, sharing: Sharing[str], wants: Needs[str]) -> None:
        self.begun, self._end = threading.Event(), threading.Event()

        def work() -> None:
            with sharing.taking(wants, wants):
                self.begun.set()
                self._end.wait(_SECONDS)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()


def fits(sharing: Sharing[str], wants: Needs[str]) -> bool:
    """Tell whether a task could begin now."""
    return not sharing._waiting and sharing._fits(wants)


def test_a_task_alone_gets_what_it_needs_and_takes_it_in_its_own_way() -> None:
    sharing: Sharing[str] = Sharing()
    large, wide = needs(500), needs(500, "net for all threads", room=2000)
    with sharing.taking(large, wide) as taken:
        assert taken is wide
        assert sharing.networks() == {"net for all threads"}
        with sharing.taking(needs(0, room=2000), wide) as second:
            assert second is not wide
    assert sharing.networks() == set()


def test_tiles_and_the_weights_of_different_networks_count_together() -> None:
    sharing: Sharing[str] = Sharing()
    first = needs(40)
    with sharing.taking(first, first):
        assert fits(sharing, needs(50))  # 10 for the weights, once
        assert not fits(sharing, needs(51))
        assert fits(sharing, needs(40, "another"))
        assert not fits(sharing, needs(41, "another"))
        assert not fits(sharing, needs(20, room=60))


def test_first_come_first_served_so_that_nobody_starves() -> None:
    sharing: Sharing[str] = Sharing()
    first, second = Task(sharing, needs(30)), Task(sharing, needs(30))
    assert first.begun.wait(_SECONDS)
    assert second.begun.wait(_SECONDS)
    hungry = Task(sharing, needs(80))
    while not sharing._waiting:
        threading.Event().wait(0.001)
    late = Task(sharing, needs(10))
    while len(sharing._waiting) < 2:
        threading.Event().wait(0.001)
    first.end()
    second.end()
    assert hungry.begun.wait(_SECONDS)
    assert late.begun.wait(_SECONDS)
    hungry.end()
    late.end()


def test_what_a_network_keeps_of_a_task_that_has_ended_counts_until_it_is_let_go() -> None:
    sharing: Sharing[str] = Sharing()
    first = Task(sharing, needs(40, "net"))
    assert first.begun.wait(_SECONDS)
    assert fits(sharing, needs(30, "other"))
    sharing.keeps("net", 30)
    sharing.keeps("net", 20)  # in the same place
    assert sharing.taken() == 80
    assert not fits(sharing, needs(30, "other"))
    second = Task(sharing, needs(30, "other"))
    assert not second.begun.is_set()
    sharing.keeps("net", 0)
    assert second.begun.wait(_SECONDS)
    first.end()
    second.end()
    assert sharing.taken() == 0
