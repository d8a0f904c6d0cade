from upscaled.engines.engine import CPU, Device, DeviceKind
from upscaled.engines.pool import Place
from upscaled.pipeline.retry_planner import AttemptPlan, RetryPlanner

FIRST = Place("binary", Device(0, "A", DeviceKind.DISCRETE))
SECOND = Place("binary", Device(1, "B", DeviceKind.INTEGRATED))
LAST = Place("builtin", CPU)
PLACES = (FIRST, SECOND, LAST)


def attempts(first: AttemptPlan, *, fixed: bool) -> list[tuple[Place, int]]:
    retries = RetryPlanner(first, PLACES, fixed_tile=fixed)
    seen = [retries.plan]
    while retries.smaller_tile_or_next_place(used_tile=0):
        seen.append(retries.plan)
        assert len(seen) < 100
    return [(plan.place, plan.tile_size) for plan in seen]


def test_the_tile_is_halved_down_to_32_then_the_next_device_then_the_cpu() -> None:
    assert attempts(AttemptPlan(FIRST, 0), fixed=False) == [
        (FIRST, 0), (FIRST, 100), (FIRST, 50), (FIRST, 32),
        (SECOND, 0), (SECOND, 100), (SECOND, 50), (SECOND, 32),
        (LAST, 0), (LAST, 100), (LAST, 50), (LAST, 32),
    ]  # fmt: skip


def test_a_job_that_began_on_the_second_device_goes_to_the_first_and_never_back() -> None:
    places = [place for place, tile in attempts(AttemptPlan(SECOND, 0), fixed=False) if tile == 0]
    assert places == [SECOND, FIRST, LAST]


def test_a_tile_size_that_the_caller_fixed_is_never_overridden() -> None:
    assert attempts(AttemptPlan(FIRST, 64), fixed=True) == [(FIRST, 64), (SECOND, 64), (LAST, 64)]


def test_the_tile_that_was_really_used_is_halved() -> None:
    retries = RetryPlanner(AttemptPlan(FIRST, 0), PLACES, fixed_tile=False)
    assert retries.smaller_tile_or_next_place(used_tile=400)
    assert retries.plan == AttemptPlan(FIRST, 200)


def test_repeating_makes_the_attempt_with_the_tile_that_was_used() -> None:
    retries = RetryPlanner(AttemptPlan(LAST, 0), (LAST,), fixed_tile=False)
    retries.repeat(used_tile=96)
    assert retries.plan == AttemptPlan(LAST, 96)
    assert retries.smaller_tile_or_next_place(used_tile=96)
    assert retries.plan == AttemptPlan(LAST, 48)


def test_with_one_place_and_the_smallest_tile_nothing_is_left() -> None:
    assert not RetryPlanner(
        AttemptPlan(LAST, 32), (LAST,), fixed_tile=False
    ).smaller_tile_or_next_place(used_tile=32)


def test_a_place_that_is_left_has_its_other_tiles_not_tried() -> None:
    retries = RetryPlanner(AttemptPlan(FIRST, 0), PLACES, fixed_tile=False)
    assert retries.next_place()
    assert retries.plan == AttemptPlan(SECOND, 0)
    assert retries.next_place()
    assert not retries.next_place()
    fixed = RetryPlanner(AttemptPlan(FIRST, 64), PLACES, fixed_tile=True)
    assert fixed.next_place()
    assert fixed.plan == AttemptPlan(SECOND, 64)


def deaths_until_nothing_is_left(first: AttemptPlan, *, fixed: bool) -> list[tuple[Place, int]]:
    retries = RetryPlanner(first, (LAST, FIRST), fixed_tile=fixed)
    seen = [retries.plan]
    while retries.after_death(used_tile=200):
        seen.append(retries.plan)
    return [(plan.place, plan.tile_size) for plan in seen]


def test_a_death_repeats_the_attempt_three_times_in_all_and_then_leaves_the_place() -> None:
    assert deaths_until_nothing_is_left(AttemptPlan(LAST, 64), fixed=True) == [
        (LAST, 64), (LAST, 64), (LAST, 64),
        (FIRST, 64), (FIRST, 64), (FIRST, 64),
    ]  # fmt: skip
    assert deaths_until_nothing_is_left(AttemptPlan(LAST, 0), fixed=False) == [
        (LAST, 0), (LAST, 0), (LAST, 100),
        (FIRST, 0), (FIRST, 0), (FIRST, 100),
    ]  # fmt: skip


def test_finished_rows_forgive_the_deaths_before_them() -> None:
    retries = RetryPlanner(AttemptPlan(LAST, 64), (LAST,), fixed_tile=True)
    for _ in range(3):
        assert retries.after_death(used_tile=64)
        assert retries.after_death(used_tile=64)
        retries.progressed()
