"""The queue's order does not depend on the system's clock."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from testkit.jobs import make_job
from upscaled.jobs.arrival_times import Arrivals
from upscaled.jobs.order import Waiting, make_order

DAY = 86_400.0


def test_a_clock_set_back_lets_nobody_overtake(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals, order = Arrivals(), make_order("fair", 0)
    first = make_job()
    arrivals.add(first)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now - DAY)
    second = replace(make_job(), created=time.time())
    arrivals.add(second)
    assert second.created < first.created
    for job in (second, first):
        order.put(Waiting(job.id, arrivals.of(job), seconds=1.0))
    assert [order.pop().id, order.pop().id] == [first.id, second.id]


def test_a_clock_set_forward_starves_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    arrivals, now = Arrivals(), time.time()
    first = make_job()
    arrivals.add(first)
    monkeypatch.setattr(time, "time", lambda: now + DAY)
    second = make_job()
    arrivals.add(second)
    assert 0 <= arrivals.of(second) - arrivals.of(first) < 60


def test_jobs_of_an_earlier_run_arrived_before_this_one() -> None:
    arrivals = Arrivals()
    tomorrow, yesterday = (replace(make_job(), created=time.time() + d) for d in (DAY, -DAY))
    for job in (tomorrow, yesterday):
        arrivals.recover(job)
    later = make_job()
    arrivals.add(later)
    assert arrivals.of(yesterday) < arrivals.of(tomorrow) <= arrivals.of(later)
    arrivals.forget(later.id)
    assert arrivals.of(later) == later.created
