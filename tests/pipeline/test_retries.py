from upscaled.engines.engine import CPU, Device, DeviceKind
from upscaled.engines.pool import Place
from upscaled.pipeline.retries import RetryPlan, Rung

FIRST = Place("binary", Device(0, "A", DeviceKind.DISCRETE))
SECOND = Place("binary", Device(1, "B", DeviceKind.INTEGRATED))
LAST = Place("builtin", CPU)
PLACES = (FIRST, SECOND, LAST)


def climb(first: Rung, *, fixed: bool) -> list[tuple[Place, int]]:
    ladder = RetryPlan(first, PLACES, fixed_tile=fixed)
    seen = [ladder.rung]
    while ladder.climb_down(used_tile=0):
        seen.append(ladder.rung)
        assert len(seen) < 100
    return [(rung.place, rung.tile_size) for rung in seen]


def test_the_tile_is_halved_down_to_32_then_the_next_device_then_the_cpu() -> None:
    assert climb(Rung(FIRST, 0), fixed=False) == [
        (FIRST, 0), (FIRST, 100), (FIRST, 50), (FIRST, 32),
        (SECOND, 0), (SECOND, 100), (SECOND, 50), (SECOND, 32),
        (LAST, 0), (LAST, 100), (LAST, 50), (LAST, 32),
    ]  # fmt: skip


def test_a_job_that_began_on_the_second_device_goes_to_the_first_and_never_back() -> None:
    places = [place for place, tile in climb(Rung(SECOND, 0), fixed=False) if tile == 0]
    assert places == [SECOND, FIRST, LAST]


def test_a_tile_size_that_the_caller_fixed_is_never_overridden() -> None:
    assert climb(Rung(FIRST, 64), fixed=True) == [(FIRST, 64), (SECOND, 64), (LAST, 64)]


def test_the_tile_that_was_really_used_is_halved() -> None:
    ladder = RetryPlan(Rung(FIRST, 0), PLACES, fixed_tile=False)
    assert ladder.climb_down(used_tile=400)
    assert ladder.rung == Rung(FIRST, 200)


def test_staying_repeats_the_attempt_with_the_tile_that_was_used() -> None:
    ladder = RetryPlan(Rung(LAST, 0), (LAST,), fixed_tile=False)
    ladder.stay(used_tile=96)
    assert ladder.rung == Rung(LAST, 96)
    assert ladder.climb_down(used_tile=96)
    assert ladder.rung == Rung(LAST, 48)


def test_with_one_place_and_the_smallest_tile_nothing_is_left() -> None:
    assert not RetryPlan(Rung(LAST, 32), (LAST,), fixed_tile=False).climb_down(used_tile=32)


def test_a_place_that_is_left_has_its_other_tiles_not_tried() -> None:
    ladder = RetryPlan(Rung(FIRST, 0), PLACES, fixed_tile=False)
    assert ladder.leave()
    assert ladder.rung == Rung(SECOND, 0)
    assert ladder.leave()
    assert not ladder.leave()
    fixed = RetryPlan(Rung(FIRST, 64), PLACES, fixed_tile=True)
    assert fixed.leave()
    assert fixed.rung == Rung(SECOND, 64)
