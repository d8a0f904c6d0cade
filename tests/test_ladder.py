from upscaled.engines.pool import Place
from upscaled.engines.protocol import CPU, Device, DeviceKind
from upscaled.ladder import Rung, next_rung

FIRST = Place("binary", Device(0, "A", DeviceKind.DISCRETE))
SECOND = Place("binary", Device(1, "B", DeviceKind.INTEGRATED))
LAST = Place("builtin", CPU)
PLACES = (FIRST, SECOND, LAST)


def climb(rung: Rung | None, *, fixed: bool) -> list[tuple[Place, int]]:
    seen = []
    while rung is not None:
        seen.append((rung.place, rung.tile_size))
        rung = next_rung(rung, 0, fixed_tile=fixed, places=PLACES[PLACES.index(rung.place) :])
    return seen


def test_the_tile_is_halved_down_to_32_then_the_next_device_then_the_cpu() -> None:
    assert climb(Rung(FIRST, 0), fixed=False) == [
        (FIRST, 0), (FIRST, 100), (FIRST, 50), (FIRST, 32),
        (SECOND, 0), (SECOND, 100), (SECOND, 50), (SECOND, 32),
        (LAST, 0), (LAST, 100), (LAST, 50), (LAST, 32),
    ]  # fmt: skip


def test_a_tile_size_that_the_caller_fixed_is_never_overridden() -> None:
    assert climb(Rung(FIRST, 64), fixed=True) == [(FIRST, 64), (SECOND, 64), (LAST, 64)]


def test_the_tile_that_was_really_used_is_halved() -> None:
    rung = next_rung(Rung(FIRST, 0), 400, fixed_tile=False, places=PLACES)
    assert rung == Rung(FIRST, 200)


def test_with_one_place_and_the_smallest_tile_nothing_is_left() -> None:
    assert next_rung(Rung(LAST, 32), 32, fixed_tile=False, places=(LAST,)) is None
