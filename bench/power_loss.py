"""Cut the power at every write of a service, and check that no accepted job is lost.

    python -m bench.power_loss

Takes five minutes; ``--states 500`` tries a sample. See `testkit.power_loss` for what is done and
checked. The exit status is 1 when a job was lost or ended wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from testkit.power_loss import replay
from upscaled.models.install import install


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--states", type=int, help="how many states to try; all if left out")
    options = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        install(models)
        tally = asyncio.run(replay(Path(folder), models, thorough=True, most=options.states))
    print(tally)
    for problem, count in Counter(tally.problems).most_common():
        print(f"{count} × {problem}")
    return 1 if tally.problems else 0


if __name__ == "__main__":
    sys.exit(main())
