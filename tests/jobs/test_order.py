import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upscaled.jobs.order import STRETCH, FairOrder, FifoOrder, LoadedModels, Order, Waiting


def fair(capacity: int = 3) -> FairOrder:
    return FairOrder(LoadedModels(capacity))


def filled(order: Order, *jobs: Waiting) -> Order:
    for job in jobs:
        order.put(job)
    return order


def emptied(order: Order) -> list[str]:
    return [order.pop().id for _ in range(len(order))]


@pytest.mark.parametrize("make", [FifoOrder, fair])
def test_equal_jobs_leave_in_the_order_they_came(make: type[FifoOrder]) -> None:
    order = filled(make(), *(Waiting(name, 1.0, 2.0) for name in "cab"))
    assert emptied(order) == ["c", "a", "b"]
    with pytest.raises(IndexError):
        order.pop()


def test_first_come_first_served_does_not_look_at_size() -> None:
    order = filled(FifoOrder(), Waiting("large", 0.0, 99.0), Waiting("small", 1.0, 0.1))
    assert [job.id for job in order.ahead()] == ["large", "small"]
    assert order.remove("large")
    assert not order.remove("large")
    assert emptied(order) == ["small"]


def test_a_small_job_comes_before_a_large_one_of_the_same_client() -> None:
    order = filled(fair(), Waiting("large", 0.0, 60.0), Waiting("small", 1.0, 0.5))
    assert emptied(order) == ["small", "large"]


def test_a_large_job_is_overtaken_only_by_those_that_come_within_its_stretch() -> None:
    small = 0.5
    moment = STRETCH * (60.0 - small)
    order = filled(
        fair(),
        Waiting("large", 0.0, 60.0),
        Waiting("soon", moment - 1, small),
        Waiting("late", moment + 1, small),
    )
    assert emptied(order) == ["soon", "large", "late"]


def test_a_single_photo_does_not_wait_for_anothers_ten_thousand() -> None:
    order = filled(fair(), *(Waiting(f"t{n}", n / 100, 0.1, "many") for n in range(10_000)))
    for _ in range(50):
        order.pop()
    order.put(Waiting("photo", 200.0, 2.0, "one"))
    before = list(itertools.takewhile(lambda name: name != "photo", emptied(order)))
    # The other client gets as much work done as the photo needs, not more.
    assert len(before) == pytest.approx(2.0 / 0.1, abs=1)


def test_clients_get_the_same_time_however_large_their_jobs_are() -> None:
    order = filled(
        fair(),
        *(Waiting(f"small {n}", 0.0, 1.0, "a") for n in range(200)),
        *(Waiting(f"large {n}", 0.0, 10.0, "b") for n in range(20)),
    )
    done = {"a": 0.0, "b": 0.0}
    for _ in range(110):
        job = order.pop()
        done[job.client] += job.seconds
        assert abs(done["a"] - done["b"]) <= 10.0


def test_a_client_that_was_away_saves_nothing_up() -> None:
    order = filled(fair(), Waiting("first", 0.0, 1.0, "b"))
    assert order.pop().id == "first"
    for n in range(100):
        order.put(Waiting(f"a{n}", 0.0, 1.0, "a"))
    for _ in range(50):
        order.pop()
    for n in range(50):
        order.put(Waiting(f"b{n}", 9.0, 1.0, "b"))
    names = emptied(order)[:20]
    assert sum(name.startswith("b") for name in names) == 10


def test_a_huge_job_is_done_though_small_ones_of_others_never_end() -> None:
    order = filled(fair(), Waiting("huge", 0.0, 100.0, "scans"))
    clients = 3
    for n in range(10_000):
        for client in range(clients):
            order.put(Waiting(f"{client}/{n}", float(n), 1.0, f"c{client}"))
        if order.pop().id == "huge":
            assert n <= clients * 100
            return
    pytest.fail("it starved")


def test_jobs_of_a_loaded_model_go_first_where_that_saves_loading() -> None:
    def jobs() -> list[Waiting]:
        return [
            Waiting(f"{model}{n}", 0.0, 1.0, model=model, load_seconds=0.5)
            for n in range(3)
            for model in "abcd"
        ]

    grouped = [name[0] for name in emptied(filled(fair(capacity=1), *jobs()))]
    assert grouped == ["a"] * 3 + ["b"] * 3 + ["c"] * 3 + ["d"] * 3
    # Grouping gains nothing for an engine that loads a model for every job.
    in_turn = [name[0] for name in emptied(filled(fair(capacity=0), *jobs()[::-1]))]
    assert in_turn == ["d", "c", "b", "a"] * 3


def test_grouping_yields_once_it_would_keep_another_model_for_longer_than_loading_takes() -> None:
    order = filled(fair(capacity=1), Waiting("a0", 0.0, 1.0, model="a", load_seconds=0.5))
    order.pop()
    order.put(Waiting("b", 1.0, 1.0, model="b", load_seconds=0.5))
    order.put(Waiting("a1", 1.0 + STRETCH * 0.4, 1.0, model="a", load_seconds=0.5))
    order.put(Waiting("a2", 1.0 + STRETCH * 0.6, 1.0, model="a", load_seconds=0.5))
    assert emptied(order) == ["a1", "b", "a2"]


jobs_of_a_day = st.lists(
    st.tuples(
        st.integers(0, 100), st.floats(0, 50), st.sampled_from("xyz"), st.sampled_from(["m", ""])
    ),
    max_size=40,
)


@given(jobs_of_a_day, st.data())
def test_the_forecast_order_is_the_order_and_nobody_is_lost(
    jobs: list[tuple[int, float, str, str]], data: st.DataObject
) -> None:
    loaded = LoadedModels(3)
    loaded.use("m")
    order = FairOrder(loaded)
    for number, (created, seconds, client, model) in enumerate(jobs):
        order.put(Waiting(str(number), created, seconds, client, model, 0.3 if model else 0.0))
    names = [str(number) for number in range(len(jobs))]
    gone = data.draw(st.sets(st.sampled_from(names))) if names else set()
    for name in gone:
        assert order.remove(name)
        assert not order.remove(name)
    if len(order) and data.draw(st.booleans()):
        gone.add(order.pop().id)
    told = [job.id for job in order.ahead()]
    assert told == emptied(order)
    assert sorted(told) == sorted(set(names) - gone)
