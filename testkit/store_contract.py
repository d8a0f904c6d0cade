"""The contract of every `JobStore`. A store's tests subclass `JobStoreContract`."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from testkit.jobs import make_job, make_message
from upscaled.jobs.job import ACTIVE, TERMINAL, Attempt, Job, JobState
from upscaled.jobs.store import JobFilter, JobStore, KeyTakenError, SubmissionKey
from upscaled.jobs.webhook_messages import MessageState, PendingJob


def make_key(job: Job, key: str = "key", created: float = 1.0) -> SubmissionKey:
    """Return an idempotency key that stands for ``job``."""
    return SubmissionKey(job.owner, key, "fingerprint", job.id, created)


class JobStoreContract(ABC):
    """Tests for a store. A subclass names itself ``Test…`` and makes the store."""

    @abstractmethod
    def make_store(self) -> JobStore:
        """Return a store, not opened yet; each call of a test one over the same records."""

    @pytest.fixture
    async def store(self) -> AsyncIterator[JobStore]:
        """Open an empty store for the length of a test."""
        store = self.make_store()
        await store.open()
        yield store
        await store.close()

    async def test_a_job_comes_back_as_it_was_put_in(self, store: JobStore) -> None:
        job = make_job(
            state=JobState.COMPLETED,
            input_name="größe\x00\n'; DROP TABLE jobs.png",
            owner="ann",
            started=1.25,
            finished=3.5,
            attempts=(Attempt("builtin", "cpu", 32, "broke"), Attempt("builtin", "cpu", 16, "ok")),
            receipt={"output": {"sha256": "00", "pixels": [1, 2.5, None, True]}},
        )
        await store.put(job)
        assert await store.get(job.id) == job
        assert await store.get("1" * 19) is None

    async def test_a_record_outlives_the_store_that_wrote_it(self, store: JobStore) -> None:
        job = make_job()
        await store.put(job)
        await store.close()
        again = self.make_store()
        await again.open()
        assert await again.get(job.id) == job
        await again.close()
        await store.open()

    async def test_a_record_is_replaced_as_a_whole(self, store: JobStore) -> None:
        job = make_job(device="cpu")
        await store.put(job)
        later = replace(job, state=JobState.FAILED, finished=2.0, device=None, error="broke")
        await store.put(later)
        assert await store.get(job.id) == later
        assert await store.in_states(ACTIVE) == []

    async def test_writes_of_one_job_keep_their_order(self, store: JobStore) -> None:
        job = make_job()
        await asyncio.gather(*(store.put(replace(job, runs=number)) for number in range(100)))
        found = await store.get(job.id)
        assert found is not None
        assert found.runs == 99

    async def test_writes_that_arrive_together_are_all_done(self, store: JobStore) -> None:
        jobs = [make_job(created=float(number)) for number in range(600)]
        await asyncio.gather(*(store.put(job) for job in jobs))
        assert [job.id for job in await store.in_states(ACTIVE)] == [job.id for job in jobs]

    async def test_jobs_are_found_by_their_state_oldest_first(self, store: JobStore) -> None:
        jobs = [
            make_job(state=state, created=float(100 - number))
            for number, state in enumerate(JobState)
        ]
        for job in jobs:
            await store.put(job)
        oldest_first = sorted(jobs, key=lambda job: job.created)
        for states in (ACTIVE, TERMINAL, frozenset({JobState.FAILED})):
            wanted = [job for job in oldest_first if job.state in states]
            assert await store.in_states(states) == wanted
        assert await store.in_states(()) == []

    async def test_jobs_are_found_by_their_end_and_their_result(self, store: JobStore) -> None:
        done = make_job(state=JobState.COMPLETED, finished=10.0)
        gone = make_job(state=JobState.COMPLETED, finished=11.0, result_gone="downloaded")
        failed = make_job(state=JobState.FAILED, finished=12.0)
        late = make_job(state=JobState.COMPLETED, finished=100.0)
        for job in (late, failed, gone, done, make_job()):
            await store.put(job)
        assert await store.finished_before(50.0, with_result=True) == [done]
        assert await store.finished_before(50.0, with_result=False) == [done, gone, failed]
        assert await store.finished_before(float("inf"), with_result=True) == [done, late]

    async def test_jobs_of_an_owner_are_listed_newest_first_page_by_page(
        self, store: JobStore
    ) -> None:
        jobs = [make_job(owner="ann", created=float(number // 2)) for number in range(9)]
        for job in (*jobs, make_job(owner="bob")):
            await store.put(job)
        wanted = sorted(jobs, key=lambda job: (job.created, job.id), reverse=True)
        found: list[Job] = []
        while page := await store.page(
            JobFilter("ann"), (found[-1].created, found[-1].id) if found else None, 2
        ):
            found += page
            await store.put(make_job(owner="ann", created=100.0))  # new ones shift nothing
        assert found == wanted

    async def test_listed_jobs_are_filtered(self, store: JobStore) -> None:
        red = make_job(owner="ann", client_ref="red", created=1.0)
        done = make_job(owner="ann", state=JobState.COMPLETED, created=2.0)
        for job in (red, done):
            await store.put(job)
        for wanted, expected in (
            (JobFilter("ann", client_ref="red"), [red]),
            (JobFilter("ann", client_ref="r%"), []),
            (JobFilter("ann", state=JobState.COMPLETED), [done]),
            (JobFilter("ann", model=red.request.model_name), [done, red]),
            (JobFilter("ann", model="other"), []),
            (JobFilter("ann", created_after=1.0), [done]),
            (JobFilter("ann", created_before=2.0), [red]),
            (JobFilter(""), []),
        ):
            assert await store.page(wanted, None, 10) == expected

    async def test_a_deleted_job_is_forgotten_and_deleting_it_again_does_nothing(
        self, store: JobStore
    ) -> None:
        job, other = make_job(), make_job()
        await store.put(job)
        await store.put(other)
        for _ in range(2):
            await store.delete(job.id)
            assert await store.get(job.id) is None
        assert await store.get(other.id) == other

    async def test_a_key_is_recorded_with_its_job_and_deleted_with_it(
        self, store: JobStore
    ) -> None:
        job, other = make_job(owner="ann"), make_job(owner="bob")
        key = make_key(job)
        await store.put(job, key)
        await store.put(other, make_key(other))
        assert await store.key("ann", key.key) == key
        assert await store.key("ann", "other") is None
        assert await store.keys_of(job.id) == [key]
        await store.put(replace(job, runs=1))  # a later record of the job leaves the key
        await store.close()
        again = self.make_store()
        await again.open()
        assert await again.key("ann", key.key) == key
        await again.delete(job.id)
        assert await again.key("ann", key.key) is None
        assert await again.key("bob", key.key) == make_key(other)
        await again.close()
        await store.open()

    async def test_a_key_that_is_taken_writes_neither_job_nor_key(self, store: JobStore) -> None:
        job, late, bystander = make_job(owner="ann"), make_job(owner="ann"), make_job(owner="ann")
        await store.put(job, make_key(job))
        ends = await asyncio.gather(
            store.put(late, make_key(late)), store.put(bystander), return_exceptions=True
        )
        assert isinstance(ends[0], KeyTakenError)
        assert await store.get(late.id) is None
        assert await store.key("ann", "key") == make_key(job)
        assert await store.get(bystander.id) == bystander

    async def test_an_owner_has_a_bounded_number_of_keys_of_a_bounded_age(
        self, store: JobStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("upscaled.jobs.store.KEYS_PER_OWNER", 3)
        bobs = make_job(owner="bob")
        await store.put(bobs, make_key(bobs, created=0.0))
        for number in range(5):
            job = make_job(owner="ann")
            await store.put(job, make_key(job, key=f"key {number}", created=float(number)))
        known = [await store.key("ann", f"key {number}") is not None for number in range(5)]
        assert known == [False, False, True, True, True]
        assert await store.key("bob", "key") is not None
        await store.forget_keys(4.0)
        assert await store.key("ann", "key 3") is None
        assert await store.key("ann", "key 4") is not None
        assert await store.key("bob", "key") is None

    async def test_messages_are_added_with_their_job_once_and_keep_their_order(
        self, store: JobStore
    ) -> None:
        job = make_job(owner="ann")
        first, second = make_message(job, "started"), make_message(job, "completed")
        await store.put(job, messages=[first])
        await store.put(job, messages=[replace(first, body=b"other"), second])
        assert await store.messages_of(job.id) == [first, second]
        assert await store.next_message(job.id) == first
        assert await store.pending_jobs() == [PendingJob(job.id, "ann", first.url, first.due)]
        assert (await store.count_pending("ann"), await store.count_pending("bob")) == (2, 0)

    async def test_what_became_of_a_message_is_recorded(self, store: JobStore) -> None:
        job, other = make_job(), make_job()
        messages = [make_message(job, name) for name in ("started", "completed")]
        await store.put(other, messages=[make_message(other, "started")])
        await store.put(job, messages=messages)
        failed = replace(messages[0], attempts=1, due=messages[0].due + 5, status=500, error="no")
        await store.settle(failed)
        assert await store.next_message(job.id) == failed
        assert [(p.job_id, p.due) for p in await store.pending_jobs()][1] == (job.id, failed.due)
        delivered = replace(
            failed, state=MessageState.DELIVERED, attempts=2, finished=9.0, status=204, error=None
        )
        await store.settle(delivered)
        assert await store.next_message(job.id) == messages[1]
        await store.settle(replace(messages[1], state=MessageState.GIVEN_UP, finished=10.0))
        assert await store.next_message(job.id) is None
        assert [p.job_id for p in await store.pending_jobs()] == [other.id]
        await store.put(job, messages=messages)
        assert await store.next_message(job.id) is None, "what was delivered stays delivered"
        assert (await store.messages_of(job.id))[0] == delivered

    async def test_a_receiver_that_is_gone_gets_no_message_of_the_job(
        self, store: JobStore
    ) -> None:
        job, other = make_job(), make_job()
        names = ("started", "completed", "expired")
        messages = [make_message(job, name) for name in names]
        await store.put(other, messages=[make_message(other, "started")])
        await store.put(job, messages=messages[:2])
        await store.settle(replace(messages[0], state=MessageState.GONE, finished=9.0))
        await store.put(job, messages=messages[2:])
        found = [message.state for message in await store.messages_of(job.id)]
        assert found == 3 * [MessageState.GONE]
        assert [p.job_id for p in await store.pending_jobs()] == [other.id]

    async def test_messages_are_deleted_with_their_job(self, store: JobStore) -> None:
        job, other = make_job(), make_job()
        for one in (job, other):
            await store.put(one, messages=[make_message(one, "started")])
        await store.delete(job.id)
        await store.settle(make_message(job, "started"))
        assert await store.messages_of(job.id) == []
        assert [p.job_id for p in await store.pending_jobs()] == [other.id]

    async def test_a_job_that_is_not_recorded_has_no_messages(self, store: JobStore) -> None:
        job = make_job(receipt={"not data": object()})
        with pytest.raises(TypeError):
            await store.put(job, messages=[make_message(job, "started")])
        assert await store.pending_jobs() == []

    async def test_a_write_that_fails_is_told_to_its_caller_alone(self, store: JobStore) -> None:
        good = make_job()
        bad = store.put(make_job(receipt={"not data": object()}))
        ends = await asyncio.gather(bad, store.put(good), return_exceptions=True)
        assert isinstance(ends[0], TypeError)
        assert ends[1] is None
        assert await store.get(good.id) == good

    async def test_closing_first_writes_what_is_pending(self, store: JobStore) -> None:
        job = make_job()
        putting = asyncio.create_task(store.put(job))
        await asyncio.wait([putting], timeout=0)
        await store.close()
        await putting
        await store.open()
        assert await store.get(job.id) == job
