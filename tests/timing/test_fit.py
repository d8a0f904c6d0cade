import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.timing.fit import KEPT, LearnedLine, Line, fit

GUESS = Line(0.1, 1e-4)


def test_the_guess_holds_until_something_was_measured() -> None:
    assert LearnedLine(GUESS).line == GUESS


def test_the_first_measurements_scale_the_guess() -> None:
    rate = LearnedLine(GUESS)
    rate.add(1000, 0.4)
    assert rate.line.seconds(1000) == pytest.approx(0.4)
    assert rate.line.seconds(9000) == pytest.approx(2.0)


def test_sizes_that_differ_tell_the_fixed_part_from_the_rate() -> None:
    truth = Line(2.0, 3e-6)
    line = fit([(amount, truth.seconds(amount)) for amount in (1e4, 1e5, 1e6, 4e6)], GUESS)
    assert line.fixed == pytest.approx(2.0)
    assert line.rate == pytest.approx(3e-6)


def test_sizes_alike_do_not() -> None:
    line = fit([(1000.0 + n, 0.5 + n % 2 / 100) for n in range(10)], GUESS)
    assert line.fixed / line.rate == pytest.approx(GUESS.fixed / GUESS.rate)


def test_one_job_on_a_busy_machine_changes_little() -> None:
    truth, noise = Line(0.2, 1e-5), random.Random(3)
    points = [(a, truth.seconds(a) * noise.uniform(0.95, 1.05)) for a in (1e4, 3e4, 1e5, 3e5) * 3]
    points[5] = (points[5][0], points[5][1] * 20)
    line = fit(points, GUESS)
    for amount in (1e4, 3e5):
        assert line.seconds(amount) == pytest.approx(truth.seconds(amount), rel=0.15)


def test_a_machine_that_became_slower_is_followed() -> None:
    rate = LearnedLine(GUESS)
    for seconds in (1.0, 3.0):
        for n in range(KEPT):
            amount = 1000.0 * (1 + n % 8)
            rate.add(amount, seconds * amount / 1000)
    assert len(rate.points) == KEPT
    assert rate.line.seconds(4000) == pytest.approx(12.0, rel=0.1)


def test_after_ten_jobs_of_mixed_sizes_the_median_error_is_under_a_quarter() -> None:
    truth, random_ = Line(0.05, 4e-6), random.Random(7)
    errors = []
    for _ in range(50):
        rate = LearnedLine(GUESS)
        for _ in range(10):
            amount = 10 ** random_.uniform(3.5, 6.5)
            rate.add(amount, truth.seconds(amount) * random_.lognormvariate(0, 0.2))
        for _ in range(5):
            amount = 10 ** random_.uniform(3.5, 6.5)
            errors.append(abs(rate.line.seconds(amount) / truth.seconds(amount) - 1))
    assert sorted(errors)[len(errors) // 2] < 0.25


@given(st.lists(st.tuples(st.floats(1e-2, 1e9), st.floats(1e-4, 1e5)), max_size=40))
def test_whatever_was_measured_no_time_is_negative(points: list[tuple[float, float]]) -> None:
    line = fit(points, GUESS)
    assert line.fixed >= 0
    assert line.rate >= 0
    assert line.seconds(1e6) > 0
