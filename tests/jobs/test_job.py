import pytest

from testkit.jobs import make_job
from upscaled import serial
from upscaled.jobs.job import (
    SUCCESSORS,
    TERMINAL,
    Attempt,
    Job,
    JobState,
    is_job_id,
    new_job_id,
)
from upscaled.pictures import Size


def test_job_ids_are_19_decimal_digits_and_all_different() -> None:
    ids = {new_job_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(len(i) == 19 and i.isdigit() and is_job_id(i) for i in ids)


@pytest.mark.parametrize(
    "text", ["", "1", "0" * 19, "../../../../etc/pass", "12345678901234567é0", "1" * 20, "١" * 19]
)
def test_what_is_no_job_id_never_becomes_a_path(text: str) -> None:
    assert not is_job_id(text)


def test_a_job_survives_being_written_as_json() -> None:
    job = make_job(
        state=JobState.PROCESSING,
        attempts=(Attempt("builtin", "cpu", 32, "broke"),),
        receipt={"input": {"sha256": "00"}},
        started=3.5,
    )
    assert serial.decode(serial.encode(job), Job) == job


@pytest.mark.parametrize("state", JobState)
def test_only_the_listed_states_may_follow(state: JobState) -> None:
    job = make_job(state=state)
    for following in JobState:
        if following in SUCCESSORS[state]:
            assert job.to(following).state is following
        else:
            with pytest.raises(ValueError, match="cannot follow"):
                job.to(following)


def test_nothing_follows_an_end() -> None:
    assert all(not SUCCESSORS[state] for state in TERMINAL)


def test_sizes_multiply_and_print() -> None:
    assert Size(4, 3).times(2) == Size(8, 6)
    assert str(Size(4, 3)) == "4×3"
    assert Size(4, 3).pixels == 12
