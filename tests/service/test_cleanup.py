"""Old results are deleted and fresh ones are not, whatever the clock says."""

from upscaled.service.cleanup import ForwardJumps

DAY = 86_400.0


class Clocks:
    """A wall clock that can be set, and a steady one."""

    def __init__(self) -> None:
        self.wall = 1e9
        self.steady = 50.0

    def run(self, seconds: float) -> None:
        self.wall += seconds
        self.steady += seconds

    def jumps(self) -> ForwardJumps:
        return ForwardJumps(lambda: self.wall, lambda: self.steady)


def test_a_clock_that_runs_has_no_jumps() -> None:
    clocks = Clocks()
    jumps = clocks.jumps()
    for _ in range(100):
        clocks.run(60)
        clocks.wall += 0.5  # being adjusted
        assert jumps.within(DAY) == 0


def test_a_clock_set_forward_by_a_day_makes_nothing_older_for_as_long_as_that_matters() -> None:
    clocks = Clocks()
    jumps = clocks.jumps()
    finished = clocks.wall
    clocks.run(60)
    clocks.wall += DAY
    for _ in range(23):
        assert finished > clocks.wall - DAY - jumps.within(DAY)
        clocks.run(3600)
    clocks.run(3600)
    assert finished < clocks.wall - DAY - jumps.within(DAY), "a day later it is old"
    assert jumps.within(DAY) == 0


def test_a_clock_set_back_lets_results_live_longer_not_shorter() -> None:
    clocks = Clocks()
    jumps = clocks.jumps()
    finished = clocks.wall
    clocks.run(60)
    clocks.wall -= DAY
    assert jumps.within(DAY) == 0
    assert finished > clocks.wall - DAY
