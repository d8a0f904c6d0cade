import asyncio
from collections.abc import Callable

from testkit.engines import IdleEngine
from testkit.waiting import settled
from upscaled.engines.engine import CPU, Device, DeviceKind
from upscaled.engines.pool import EnginePool, Place

GPU = Place("builtin", Device(0, "GPU", DeviceKind.DISCRETE))
SPARE = Place("builtin", CPU)


def shared_pool() -> EnginePool:
    """Return a pool whose one slot three small jobs may share."""
    return EnginePool([(SPARE, 1, IdleEngine)], shared={SPARE: 3})


def pool_of(slots: int) -> EnginePool:
    return EnginePool([(GPU, slots, IdleEngine)], [(SPARE, IdleEngine)])


async def hold(pool: EnginePool, order: float, log: list[float], leave: asyncio.Event) -> None:
    async with pool.slot(order):
        log.append(order)
        await leave.wait()


async def test_slots_are_given_in_order_however_late_one_asks() -> None:
    pool, leave = pool_of(1), asyncio.Event()
    log: list[float] = []
    tasks = [asyncio.create_task(hold(pool, order, log, leave)) for order in (1.0, 3.0, 2.0)]
    while not log:
        await asyncio.wait(tasks, timeout=0)
    leave.set()
    await asyncio.gather(*tasks)
    assert log == [1.0, 2.0, 3.0]


async def test_no_more_jobs_than_slots_hold_one() -> None:
    pool, leave = pool_of(2), asyncio.Event()
    log: list[float] = []
    tasks = [asyncio.create_task(hold(pool, float(n), log, leave)) for n in range(5)]
    while len(log) < 2:
        await asyncio.wait(tasks, timeout=0)
    assert log == [0.0, 1.0]
    assert pool.slots == 2
    leave.set()
    await asyncio.gather(*tasks)
    assert sorted(log) == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert pool.slots == 2


async def test_one_who_gives_up_waiting_does_not_keep_a_slot() -> None:
    pool, leave = pool_of(1), asyncio.Event()
    log: list[float] = []
    first = asyncio.create_task(hold(pool, 1.0, log, leave))
    second = asyncio.create_task(hold(pool, 2.0, log, leave))
    third = asyncio.create_task(hold(pool, 3.0, log, leave))
    await asyncio.wait([second], timeout=0)
    second.cancel()
    leave.set()
    await asyncio.wait([first, second, third])
    assert log == [1.0, 3.0]
    async with pool.slot(4.0) as slot:
        assert slot.place == GPU


async def test_a_spare_is_used_only_when_asked_for() -> None:
    pool = pool_of(1)
    async with pool.slot(1.0) as slot, pool.slot(1.0, SPARE) as spare:
        assert (slot.place, spare.place) == (GPU, SPARE)
    assert pool.places == (GPU,)
    assert pool.all_places == (GPU, SPARE)


async def test_closing_ends_every_engine_that_was_made() -> None:
    pool = pool_of(3)
    async with pool.slot(1.0) as one, pool.slot(1.0) as other:
        engines = [one.engine, other.engine]
    await pool.close()
    assert [getattr(engine, "closed", None) for engine in engines] == [True, True]


class Line:
    """Jobs that want slots of a pool, and who holds one."""

    def __init__(self, pool: EnginePool) -> None:
        self._pool = pool
        self._leave: dict[str, asyncio.Event] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.holding: list[str] = []
        self.shares: dict[str, int] = {}

    async def join(self, name: str, *, small: bool) -> None:
        order, leave = float(len(self._tasks)), asyncio.Event()
        self._leave[name] = leave

        async def hold() -> None:
            async with self._pool.slot(order, small=small) as slot:
                self.holding.append(name)
                self.shares[name] = slot.shares
                await leave.wait()
                self.holding.remove(name)

        self._tasks.append(asyncio.create_task(hold(), name=name))
        await settled()

    async def give_up(self, name: str) -> None:
        (task,) = [task for task in self._tasks if task.get_name() == name]
        task.cancel()
        await settled()

    async def leave(self, *names: str) -> None:
        for name in names:
            self._leave[name].set()
        await settled()


async def test_small_jobs_share_a_slot_and_its_engine() -> None:
    pool = shared_pool()
    line = Line(pool)
    for name in "abcd":
        await line.join(name, small=True)
    assert line.holding == ["a", "b", "c"]
    assert set(line.shares.values()) == {3}
    assert (pool.slots, pool.most_at_once) == (1, 3)
    await line.leave("b")
    assert line.holding == ["a", "c", "d"]
    await line.leave(*"acd")


async def test_a_large_job_has_an_engine_alone_and_is_not_passed_by_small_ones() -> None:
    line = Line(shared_pool())
    await line.join("small", small=True)
    await line.join("large", small=False)
    await line.join("late", small=True)
    assert line.holding == ["small"]
    await line.leave("small")
    assert line.holding == ["large"]
    assert line.shares["large"] == 1
    await line.leave("large")
    assert line.holding == ["late"]
    await line.leave("late")


async def test_who_waited_behind_a_large_job_goes_on_when_that_gives_up() -> None:
    line = Line(shared_pool())
    await line.join("small", small=True)
    await line.join("large", small=False)
    await line.join("late", small=True)
    await line.give_up("large")
    assert line.holding == ["small", "late"]
    await line.leave("small", "late")


async def test_small_jobs_fill_one_engine_before_they_take_another() -> None:
    pool = EnginePool([(SPARE, 2, IdleEngine)], shared={SPARE: 2})
    line = Line(pool)
    for name in "ab":
        await line.join(name, small=True)
    await line.join("large", small=False)
    assert line.holding == ["a", "b", "large"]
    assert pool.most_at_once == 4
    await line.leave("a", "b", "large")


class StuckEngine(IdleEngine):
    """An engine that can be made unusable, and usable again."""

    def __init__(self) -> None:
        self.unusable = None
        self._callbacks: list[Callable[[], None]] = []

    def when_usable(self, callback: Callable[[], None]) -> None:
        self._callbacks.append(callback)

    def free(self) -> None:
        self.unusable = None
        for callback in self._callbacks:
            callback()


async def test_jobs_run_on_the_next_device_while_one_is_unusable() -> None:
    other = Place("builtin", Device(1, "another GPU", DeviceKind.DISCRETE))
    stuck = StuckEngine()
    pool = EnginePool([(GPU, 1, lambda: stuck), (other, 1, IdleEngine)], [(SPARE, IdleEngine)])
    async with pool.slot(1.0) as slot:
        assert slot.place == GPU
        stuck.unusable = "It hangs."
    assert pool.unusable == {GPU: "It hangs."}
    async with pool.slot(1.0) as first:
        assert first.place == other
        late = asyncio.create_task(pool._acquire(2.0, None, small=False), name="late")
        await settled()
        assert not late.done(), "it waits for a device, not for a spare"
        stuck.free()
        assert (await late).place == GPU
    assert pool.unusable == {}


async def test_jobs_run_on_a_spare_while_every_device_is_unusable() -> None:
    stuck = StuckEngine()
    pool = EnginePool([(GPU, 1, lambda: stuck)], [(SPARE, IdleEngine)])
    async with pool.slot(1.0):
        stuck.unusable = "It hangs."
    async with pool.slot(1.0) as slot:
        assert slot.place == SPARE
    async with pool.slot(1.0, GPU) as slot:
        assert slot.engine is stuck, "who asks for the place is told by the engine"


async def test_jobs_wait_while_nothing_is_usable() -> None:
    stuck = StuckEngine()
    pool = EnginePool([(GPU, 1, lambda: stuck)])
    async with pool.slot(1.0):
        stuck.unusable = "It hangs."
    waiting = asyncio.create_task(pool._acquire(1.0, None, small=False), name="waiting")
    await settled()
    assert not waiting.done()
    stuck.free()
    assert (await waiting).place == GPU
