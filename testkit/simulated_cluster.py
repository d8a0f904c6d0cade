"""A model of a cluster on a virtual clock: its rules, seeded faults, and what must hold.

It has the rules of `upscaled.cluster` as far as they decide who does which job, and how jobs end:
start tags and priorities, loaded networks, numbered leases, signs of life, rescue, what a worker
does that was cut off. Nothing is upscaled. The same seed gives the same run, event by event.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable

from testkit.simulated_parts import (
    CANCELLED,
    COMPLETED,
    ENDS,
    FAILED,
    LOADS,
    MOST,
    PROCESSING,
    QUEUED,
    Settings,
    SimulatedJob,
    SimulatedWorker,
    SimulationError,
    StartTags,
    TagQueue,
)

_BEATS = 4
_AGAIN_SECONDS = 1.0
_IDLE_SECONDS = 5.0
_AHEAD = 1
"""Jobs that a worker fetches beyond the one that it does."""


class SimulatedCluster:
    """One run.

    Args:
        seed: decides everything that is left to chance.
        settings: what is simulated.
    """

    def __init__(self, seed: int, settings: Settings) -> None:
        self.seed, self.settings = seed, settings
        self._random = random.Random(seed)
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.jobs: list[SimulatedJob] = []
        self._waiting = TagQueue()
        self._doing: set[int] = set()
        self._tags = StartTags()
        self._heartbeats: dict[int, float] = {}
        self._next_worker = 0
        self._clock_ahead = 0.0
        self._down_until = 0.0
        self._up_since = -1e9
        self._slow_until = 0.0
        self._calm = settings.hours * 3600
        """Afterwards no job comes, and nothing fails any more."""
        self.faults: Counter[str] = Counter()
        self.stale_writes = 0
        self.workers = [SimulatedWorker(name) for name in range(settings.workers)]

    # --- the run ----------------------------------------------------------------------------------

    def run(self) -> SimulatedCluster:
        """Simulate all of it; raise `SimulationError` if something that must hold does not."""
        for worker in self.workers:
            self._start(worker)
        self._after(self._spread(self._arrival_pause()), self._arrive)
        for fault, mean in (
            (self._kill, self.settings.death / len(self.workers)),
            (self._cut, self.settings.cut / len(self.workers)),
            (self._restart, self.settings.restart),
            (self._slow, self.settings.slow_blobs),
            (self._jump, self.settings.jump),
        ):
            self._repeat(fault, mean)
        last = self._calm + 24 * 3600
        while self._events:
            self.now, _, act = heapq.heappop(self._events)
            if self.now > last or (self.now > self._calm and self._all_ended()):
                break
            act()
        left = [job.number for job in self.jobs if job.state not in ENDS]
        self._must(not left, f"{len(left)} jobs never ended, such as {left[:3]}")
        return self

    def _all_ended(self) -> bool:
        return not self._doing and not any(
            self.jobs[number].state == QUEUED for number in self._waiting
        )

    def _must(self, holds: bool, what: str) -> None:
        if not holds:
            raise SimulationError(f"seed {self.seed}, {self.now:.3f} s: {what}")

    def _after(self, seconds: float, act: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (self.now + seconds, self._count, act))

    def _repeat(self, fault: Callable[[], None], mean: float) -> None:
        def strike() -> None:
            if self.now < self._calm:
                self.faults[fault.__name__.strip("_")] += 1
                fault()
                self._after(self._spread(mean), strike)

        self._after(self._spread(mean), strike)

    def _spread(self, mean: float) -> float:
        return self._random.expovariate(1 / mean)

    # --- callers ----------------------------------------------------------------------------------

    def _arrival_pause(self) -> float:
        # Costs have the mean 12 s: nine of ten jobs take 1 to 5 s, the tenth 30 to 156 s.
        return 12.0 / (self.settings.load * self.settings.workers)

    def _arrive(self) -> None:
        if self.now >= self._calm:
            return
        if self._database_up:
            large = self._random.random() < 0.1
            cost = self._random.uniform(30, MOST) if large else self._random.uniform(1, 5)
            # A few clients send most of the jobs.
            client = f"client {int(self._random.paretovariate(1)) % self.settings.clients}"
            virtual, tag = self._tags.virtual, self._tags.start(client, cost)
            network = self._random.choices(list(LOADS), [6, 3, 1, 1])[0]
            job = SimulatedJob(len(self.jobs), client, cost, self.now, tag, virtual, network)
            self.jobs.append(job)
            self._enqueue(job)
            if self._random.random() < 0.05:
                self._after(self._spread(20.0), lambda: self._cancel(job))
        self._after(self._spread(self._arrival_pause()), self._arrive)

    def _cancel(self, job: SimulatedJob) -> None:
        if not self._database_up:
            self._after(_AGAIN_SECONDS, lambda: self._cancel(job))
        elif job.state not in ENDS:
            self._end(job, CANCELLED)

    def _enqueue(self, job: SimulatedJob) -> None:
        job.worker = None
        self._doing.discard(job.number)
        self._waiting.put(job.number, job.network, job.tag)
        for worker in self.workers:
            if len(worker.held) <= _AHEAD:
                self._look_soon(worker, 0.06 if worker.delays(self.settings)[job.network] else 0.02)

    # --- the database -----------------------------------------------------------------------------

    @property
    def _database_up(self) -> bool:
        return self.now >= self._down_until

    @property
    def _clock(self) -> float:
        return self.now + self._clock_ahead

    def _take(self, worker: SimulatedWorker) -> SimulatedJob | None:
        delays = worker.delays(self.settings)
        while len(self._waiting):
            if self.settings.ordered:
                number, ahead = self._waiting.take(delays)
            else:
                number, ahead = self._waiting.ahead()[-1], False
                self._waiting.remove(number)
            job = self.jobs[number]
            if job.state in ENDS or job.worker is not None:
                continue
            job.lease += 1
            job.worker = worker.number
            self._doing.add(number)
            if job.taken is None:
                self._note_overtaking(job)
                job.taken = self.now
            self._tags.served(job.tag)
            worker.preference.took(job.network, job.cost, ahead=ahead)
            return job
        return None

    def _note_overtaking(self, taken: SimulatedJob) -> None:
        """Check that no job waits longer than fair queueing allows."""
        for number in self._waiting:
            job = self.jobs[number]
            if job.taken is not None or job.number >= taken.number or job.state in ENDS:
                continue
            job.overtaken[taken.client] += taken.cost
            got, most = job.overtaken[taken.client], job.most_overtaken
            self._must(
                got <= most,
                f"job {job.number} waits while {taken.client} got {got:.1f} s of work that came "
                f"later; {most:.1f} s are fair",
            )

    def _end(self, job: SimulatedJob, state: str) -> None:
        self._must(job.state not in ENDS, f"job {job.number} ended as {job.state}, then as {state}")
        job.state, job.ended = state, self.now
        self._doing.discard(job.number)

    def _rescue(self, member: SimulatedWorker) -> None:
        lease = self.settings.lease
        since = member.heard_since
        if since is None or self.now - since <= lease or self._clock - self._up_since < lease:
            return
        for number in sorted(self._doing):
            job = self.jobs[number]
            assert job.worker is not None
            if self._heartbeats.get(job.worker, -1e18) >= self._clock - lease:
                continue
            job.lease += 1
            job.crashes += 1
            if job.crashes >= self.settings.max_crashes:
                self._end(job, FAILED)
            else:
                job.state = QUEUED
                self._enqueue(job)

    # --- workers ----------------------------------------------------------------------------------

    def _start(self, worker: SimulatedWorker) -> None:
        worker.restart(self.settings.kept)
        self._register(worker)
        life = worker.life
        self._after(0.0, lambda: self._beat(worker, life))
        self._look_soon(worker)

    def _register(self, worker: SimulatedWorker) -> None:
        self._next_worker += 1
        worker.number = self._next_worker
        self._heartbeats[worker.number] = self._clock

    def _reaches(self, worker: SimulatedWorker) -> bool:
        return self._database_up and self.now >= worker.cut_until

    def _is_over(self, worker: SimulatedWorker, life: int, act: Callable[[], None]) -> bool:
        """Tell whether an event is of an earlier life; one of a stopped worker comes later."""
        if not worker.alive or worker.life != life:
            return True
        if self.now < worker.stopped_until:
            self._after(worker.stopped_until - self.now, act)
            return True
        return False

    def _beat(self, worker: SimulatedWorker, life: int) -> None:
        def again() -> None:
            self._beat(worker, life)

        if self._is_over(worker, life, again):
            return
        if self._reaches(worker):
            if worker.number in self._heartbeats:
                self._heartbeats[worker.number] = self._clock
            else:
                self._register(worker)
            if worker.heard_since is None:
                worker.heard_since = self.now
            self._check_leases(worker)
            self._rescue(worker)
            self._tidy()
        else:
            worker.heard_since = None
        self._after(self.settings.lease / _BEATS * self._random.uniform(0.8, 1.0), again)

    def _tidy(self) -> None:
        oldest = self._clock - 20 * self.settings.lease
        if len(self._heartbeats) > 2 * len(self.workers):
            for number, seen in list(self._heartbeats.items()):
                if seen < oldest:
                    del self._heartbeats[number]

    def _check_leases(self, worker: SimulatedWorker) -> None:
        for number, lease in list(worker.held.items()):
            job = self.jobs[number]
            if job.lease != lease or job.state in ENDS:
                self._lose(worker, number)
        for number in sorted(self._doing):
            job = self.jobs[number]
            if job.worker == worker.number and number not in worker.held:
                job.lease += 1  # it has the job without knowing, and gives it back
                self._enqueue(job)

    def _look_soon(self, worker: SimulatedWorker, seconds: float = 0.02) -> None:
        """Let a worker look for a job, in place of its next look."""
        worker.look += 1
        life, look = worker.life, worker.look
        seconds *= self._random.uniform(0.5, 1.5)
        self._after(seconds, lambda: self._look(worker, life, look))

    def _look(self, worker: SimulatedWorker, life: int, look: int) -> None:
        """Take a job if there is room: one is done, and one more is fetched ahead."""

        def again() -> None:
            self._look(worker, life, look)

        if look != worker.look or self._is_over(worker, life, again):
            return
        if len(worker.held) > _AHEAD:
            return  # the end of one of them has it look again
        pause = _IDLE_SECONDS
        if not self._reaches(worker):
            pause = _AGAIN_SECONDS
        else:
            job = self._take(worker)
            if job is not None:
                lease, pause = job.lease, 0.02
                # A commit whose answer is lost in the cut gives a job without its worker knowing.
                if self._random.random() > 0.001:
                    worker.held[job.number] = lease
                    self._after(self._blob_seconds(), lambda: self._begin(worker, life, job, lease))
        self._look_soon(worker, pause)

    def _blob_seconds(self) -> float:
        return self._spread(60.0 if self.now < self._slow_until else 0.2)

    def _begin(self, worker: SimulatedWorker, life: int, job: SimulatedJob, lease: int) -> None:
        def act() -> None:
            self._begin(worker, life, job, lease)

        if self._is_over(worker, life, act) or worker.held.get(job.number) != lease:
            return
        if not self._reaches(worker):
            self._after(_AGAIN_SECONDS, act)
            return
        if self._may_write(job, lease):
            job.state = PROCESSING
            seconds = job.cost * self._random.uniform(0.8, 1.3) + self._blob_seconds()
            seconds += worker.load(job.network)
            self._after(seconds, lambda: self._finish(worker, life, job, lease))
        else:
            self._lose(worker, job.number)

    def _finish(self, worker: SimulatedWorker, life: int, job: SimulatedJob, lease: int) -> None:
        """Record the end of a job, again and again until the database takes it or it is lost."""

        def act() -> None:
            self._finish(worker, life, job, lease)

        if self._is_over(worker, life, act) or worker.held.get(job.number) != lease:
            return
        if not self._reaches(worker):
            self._after(_AGAIN_SECONDS, act)
            return
        if self._may_write(job, lease):
            job.result = lease
            self._end(job, COMPLETED)
            self._must(
                job.result == job.lease, f"job {job.number} has the result of a lost lease {lease}"
            )
        else:
            self.stale_writes += 1
        self._lose(worker, job.number)

    def _lose(self, worker: SimulatedWorker, number: int) -> None:
        worker.held.pop(number, None)
        self._look_soon(worker)

    def _may_write(self, job: SimulatedJob, lease: int) -> bool:
        return not self.settings.fenced or (job.lease == lease and job.state not in ENDS)

    # --- faults -----------------------------------------------------------------------------------

    def _kill(self) -> None:
        worker = self._random.choice(self.workers)
        if worker.alive:
            worker.alive = False
            self._after(self._spread(60.0), lambda: self._start_when_up(worker))

    def _start_when_up(self, worker: SimulatedWorker) -> None:
        if self._database_up:
            self._start(worker)
        else:
            self._after(_AGAIN_SECONDS, lambda: self._start_when_up(worker))

    def _cut(self) -> None:
        worker = self._random.choice(self.workers)
        until = self.now + self._spread(1.5 * self.settings.lease)
        if self._random.random() < 0.5:
            worker.cut_until = until
        else:
            worker.stopped_until = until

    def _restart(self) -> None:
        self._down_until = self.now + self._spread(20.0)
        self._up_since = self._down_until + self._clock_ahead
        for worker in self.workers:
            worker.heard_since = None

    def _slow(self) -> None:
        self._slow_until = self.now + self._spread(180.0)

    def _jump(self) -> None:
        self._clock_ahead += self._random.choice((-1, 1)) * self._spread(60.0)
