"""Kill a server while its webhooks go to a receiver that fails, and check what was told.

    python -m bench.webhooks --jobs 1000 --kills 10 --restarts 10 --seed 1

See `testkit.webhook_torture` for what is done and checked. The exit status is 1 when an event was
lost, came out of order, or was about a job that does not exist.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from testkit.webhook_torture import table, torture
from upscaled.models.install import install


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name, value in (("--jobs", 1000), ("--kills", 10), ("--restarts", 10), ("--seed", 1)):
        parser.add_argument(name, type=int, default=value)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        install(models)
        told = asyncio.run(torture(Path(folder), models, **vars(options)))
    print(table(told))
    print("\n".join(told.problems))
    return 1 if told.problems else 0


if __name__ == "__main__":
    sys.exit(main())
