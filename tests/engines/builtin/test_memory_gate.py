"""Tasks that run at the same time keep to one limit, first come, first served."""

from __future__ import annotations

import threading

from upscaled.engines.builtin.memory_gate import MemoryGate, MemoryNeed

_SECONDS = 20


def need(
    tiles: int, network: str = "net", *, weights: int = 10, limit: int = 100
) -> MemoryNeed[str]:
    return MemoryNeed(network, weights, tiles, limit)


class Task:
    """A task in a thread of its own, which ends on request."""

    def __init__(self, gate: MemoryGate[str], wants: MemoryNeed[str]) -> None:
        self.begun, self._end = threading.Event(), threading.Event()

        def work() -> None:
            with gate.reserve(wants, wants):
                self.begun.set()
                self._end.wait(_SECONDS)

        self._thread = threading.Thread(target=work)
        self._thread.start()

    def end(self) -> None:
        self._end.set()
        self._thread.join(_SECONDS)
        assert not self._thread.is_alive()


def fits(gate: MemoryGate[str], wants: MemoryNeed[str]) -> bool:
    """Tell whether a task could begin now."""
    return not gate._waiting and gate._fits(wants)


def test_a_task_alone_gets_what_it_needs_and_takes_it_in_its_own_way() -> None:
    gate: MemoryGate[str] = MemoryGate()
    large, wide = need(500), need(500, "net for all threads", limit=2000)
    with gate.reserve(large, wide) as taken:
        assert taken is wide
        assert gate.networks_in_use() == {"net for all threads"}
        with gate.reserve(need(0, limit=2000), wide) as second:
            assert second is not wide
    assert gate.networks_in_use() == set()


def test_tiles_and_the_weights_of_different_networks_count_together() -> None:
    gate: MemoryGate[str] = MemoryGate()
    first = need(40)
    with gate.reserve(first, first):
        assert fits(gate, need(50))  # 10 for the weights, once
        assert not fits(gate, need(51))
        assert fits(gate, need(40, "another"))
        assert not fits(gate, need(41, "another"))
        assert not fits(gate, need(20, limit=60))


def test_first_come_first_served_so_that_nobody_starves() -> None:
    gate: MemoryGate[str] = MemoryGate()
    first, second = Task(gate, need(30)), Task(gate, need(30))
    assert first.begun.wait(_SECONDS)
    assert second.begun.wait(_SECONDS)
    hungry = Task(gate, need(80))
    while not gate._waiting:
        threading.Event().wait(0.001)
    late = Task(gate, need(10))
    while len(gate._waiting) < 2:
        threading.Event().wait(0.001)
    first.end()
    second.end()
    assert hungry.begun.wait(_SECONDS)
    assert late.begun.wait(_SECONDS)
    hungry.end()
    late.end()


def test_what_a_network_keeps_of_a_task_that_has_ended_counts_until_it_is_let_go() -> None:
    gate: MemoryGate[str] = MemoryGate()
    first = Task(gate, need(40, "net"))
    assert first.begun.wait(_SECONDS)
    assert fits(gate, need(30, "other"))
    gate.set_cached("net", 30)
    gate.set_cached("net", 20)  # in the same place
    assert gate.used() == 80
    assert not fits(gate, need(30, "other"))
    second = Task(gate, need(30, "other"))
    assert not second.begun.is_set()
    gate.set_cached("net", 0)
    assert second.begun.wait(_SECONDS)
    first.end()
    second.end()
    assert gate.used() == 0
