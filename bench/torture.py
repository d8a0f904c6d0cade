"""Kill a server at random moments while it works, and check that nothing is lost.

    python -m bench.torture --jobs 200 --kills 25 --seed 1

See `testkit.torture` for what is done and checked. The exit status is 1 when something was lost.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from testkit.torture import table, torture
from upscaled.models.install import install


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        install(models)
        tally = asyncio.run(
            torture(Path(folder), models, jobs=options.jobs, kills=options.kills, seed=options.seed)
        )
    print(table(tally))
    print("\n".join(tally.problems))
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
