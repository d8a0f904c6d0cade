"""``upscaled watch``: a folder whose new pictures are upscaled as they come."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from pathlib import Path

from upscaled.batch.batch import Batch, Options
from upscaled.batch.items import Selection
from upscaled.batch.ledger import Ledger
from upscaled.batch.naming import Naming
from upscaled.batch.watching import After, Watcher, WatchOptions
from upscaled.commands.reports import JsonReport, LineReport
from upscaled.commands.upscale_options import fields_of
from upscaled.commands.upscalers import made_by, sizes, with_archives
from upscaled.commands.wording import printable
from upscaled.config.settings import Config
from upscaled.errors import ConfigError
from upscaled.pictures import SizeLimit


async def watch(options: argparse.Namespace, config: Config) -> int:
    """Run the command until it is stopped."""
    wanted = _watch_options(options)
    if not await asyncio.to_thread(wanted.folder.is_dir):
        raise ConfigError(f"There is no folder {wanted.folder}.")
    # Sent when a writer opens a file that is being checked; by default it ends the process.
    signal.signal(signal.SIGIO, signal.SIG_IGN)
    fields, out = fields_of(options), Path(options.target)
    ledger = await asyncio.to_thread(Ledger, out)
    try:
        folding = await asyncio.to_thread(ledger.folding)
        naming = Naming(out, options.suffix, fields.get("format"), folding=folding)
        if wanted.after is not After.KEEP:
            # Names may be used again after their pictures are gone, and results must stay.
            naming.is_occupied = lambda place: place.exists() and ledger.get(place) is None
        report = JsonReport(sys.stdout) if options.json else LineReport(sys.stdout, sys.stderr)
        chosen = Options(
            fields,
            only_below=SizeLimit.parse(options.only_below) if options.only_below else None,
            reserve_names=wanted.after is not After.KEEP,
        )
        async with made_by(options, config, ledger.work) as upscaler, sizes(config) as size_of:
            archives = with_archives(upscaler, ledger.work, size_of, chosen.only_below, report)
            async with archives as both:
                batch = Batch(both, size_of, ledger, naming, chosen, report)
                watcher = Watcher(
                    batch, ledger, naming, wanted, both.parallel, report,
                    lambda sentence: print(
                        f"upscaled: {printable(sentence)}", file=sys.stderr, flush=True
                    ),
                )  # fmt: skip
                await watcher.run()
    finally:
        await asyncio.to_thread(ledger.close)
    return 0


def _watch_options(options: argparse.Namespace) -> WatchOptions:
    folder = Path(options.folder)
    for name in ("settle", "interval"):
        if not 0.05 <= getattr(options, name) <= 86_400:
            raise ConfigError(
                f"--{name} is {getattr(options, name)}; it must be between 0.05 and 86400 s."
            )
    return WatchOptions(
        folder=folder,
        selection=Selection(options.recursive, tuple(options.include), tuple(options.exclude)),
        after=After(options.done),
        done_folder=Path(options.done_folder or folder / "done"),
        failed_folder=Path(options.failed_folder or folder / "failed"),
        settle_seconds=options.settle,
        interval_seconds=options.interval,
    )
