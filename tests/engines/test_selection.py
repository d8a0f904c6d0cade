"""What the settings come to: the share of the memory above all."""

from __future__ import annotations

from pathlib import Path

from testkit.networks import make_task, photo, write_repeater
from upscaled.config.settings import Config
from upscaled.config.sources import load
from upscaled.engines.builtin.engine import BuiltinEngine
from upscaled.engines.selection import choose, make_pool


async def test_the_memory_limit_is_shared_out_among_the_slots(tmp_path: Path) -> None:
    settings = load(
        environ={
            "UPSCALED_UPSCALER_ENGINE": "builtin",
            "UPSCALED_UPSCALER_GPU_IDS": "-1",
            "UPSCALED_UPSCALER_MEMORY_LIMIT_MB": "1000",
            "UPSCALED_LIMITS_MAX_CONCURRENT_JOBS": "2",
        }
    )
    choice = await choose(settings)
    assert choice.memory_mb == 630
    pool = make_pool(settings, choice)
    try:
        async with pool.slot(0) as slot:
            assert isinstance(slot.engine, BuiltinEngine)
            task = make_task(tmp_path, photo(20, 20), write_repeater(tmp_path, "n", 2))
            await slot.engine.upscale(task, lambda _: None)
            arguments = Path(f"/proc/{slot.engine.pid}/cmdline").read_text().split("\0")
    finally:
        await pool.close()
    assert arguments[arguments.index("--memory-limit-mb") + 1] == "315"


async def test_without_a_setting_the_limit_is_part_of_what_is_free() -> None:
    choice = await choose(Config())
    assert choice.memory_mb is not None
    assert choice.memory_mb > 0
