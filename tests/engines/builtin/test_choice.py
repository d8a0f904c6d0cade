"""The choice of a method to run a network, from given measurements."""

from __future__ import annotations

import dataclasses

from upscaled.engines.builtin.choice import Pace, Table, choose, choose_for_small
from upscaled.engines.builtin.cpu_library import CpuLibrary
from upscaled.engines.cpu_method import CpuMethod

NCNN, F32, BF16 = CpuLibrary.NCNN, CpuLibrary.OPENVINO, CpuLibrary.OPENVINO_BF16
GOOD = {F32: {"slope": 90.0, "noise": 80.0}, BF16: {"slope": 55.0, "noise": 51.0}}


def pace(library: CpuLibrary, threads: int, side: int, microseconds: float) -> Pace:
    """Return the pace on two cores; ``microseconds`` for a pixel without padding."""
    padded = microseconds * 1e-6 * (side / (side + 20)) ** 2
    return Pace(library, threads, 2 // threads, side, padded, 100)


def table(*paces: Pace) -> Table:
    return Table("n", paces, GOOD)


def test_the_quickest_library_wins() -> None:
    quick = table(pace(NCNN, 2, 128, 2.0), pace(F32, 2, 128, 3.0), pace(BF16, 2, 128, 1.5))
    assert choose(quick) == CpuMethod(BF16, 0, 0.0)
    other = table(pace(NCNN, 2, 128, 1.0), pace(F32, 2, 128, 3.0), pace(BF16, 2, 128, 1.5))
    assert choose(other) == CpuMethod(NCNN, 0, 0.0)


def test_a_library_whose_pictures_differ_is_not_chosen_however_quick() -> None:
    made = table(pace(NCNN, 2, 128, 9.0), pace(BF16, 2, 128, 1.0))
    for worst, chosen in ((50.0, BF16), (49.9, NCNN)):
        method = choose(dataclasses.replace(made, decibels={BF16: {"slope": 60.0, "text": worst}}))
        assert method is not None
        assert method.library == chosen


def test_a_library_that_failed_is_not_chosen() -> None:
    made = dataclasses.replace(
        table(pace(NCNN, 2, 128, 9.0), pace(F32, 2, 128, 1.0)), failures={F32: "It crashed."}
    )
    method = choose(made)
    assert method is not None
    assert method.library == NCNN


def test_where_times_are_level_32_bits_are_preferred() -> None:
    for bf16, chosen in ((1.00, F32), (0.97, BF16)):
        method = choose(table(pace(F32, 2, 128, 1.01), pace(BF16, 2, 128, bf16)))
        assert method is not None
        assert method.library == chosen


def test_tiles_grow_as_far_as_they_are_not_slower() -> None:
    sides = (64, 128, 200, 400)

    def largest(*times: float) -> int:
        method = choose(
            table(*(pace(NCNN, 2, side, time) for side, time in zip(sides, times, strict=True)))
        )
        assert method is not None
        return method.tile

    assert largest(4.0, 3.0, 2.0, 1.0) == 0
    assert largest(4.0, 3.0, 2.0, 2.05) == 0
    assert largest(4.0, 3.0, 2.0, 2.5) == 200
    assert largest(1.0, 3.0, 2.0, 2.5) == 64
    assert largest(2.0, 2.02, 2.03, 2.5) == 200


def test_the_cost_of_threads_on_one_tile_is_that_of_the_chosen_library_and_size() -> None:
    made = table(
        pace(NCNN, 2, 128, 2.4), pace(NCNN, 1, 128, 2.0), pace(NCNN, 2, 64, 9.0),
        pace(NCNN, 1, 64, 3.0), pace(F32, 2, 128, 5.0),
    )  # fmt: skip
    assert choose(made) == CpuMethod(NCNN, 0, 1.2)


def test_small_pictures_go_by_the_smallest_tile_with_one_thread() -> None:
    made = table(
        pace(NCNN, 2, 64, 5.0), pace(NCNN, 1, 64, 1.0), pace(NCNN, 1, 400, 3.0),
        pace(F32, 2, 64, 2.0), pace(F32, 1, 64, 2.0), pace(F32, 1, 400, 2.0),
    )  # fmt: skip
    large, small = choose(made), choose_for_small(made)
    assert large is not None
    assert small is not None
    assert (small.library, small.doubling) == (NCNN, 5.0)
    only_large = dataclasses.replace(made, paces=tuple(p for p in made.paces if p.side == 400))
    assert choose(only_large) == CpuMethod(F32, 0, 0.0)


def test_nothing_is_chosen_from_nothing() -> None:
    assert choose(Table("n")) is None
    assert choose_for_small(Table("n")) is None
