"""Send damaged pictures to a server, and check that it stays healthy.

    python -m bench.fuzz_pictures --inputs 5000 --seed 1

See `testkit.picture_fuzz` for what is sent and checked. The exit status is 1 when the server gave
a wrong answer, failed, or grew.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from testkit.picture_fuzz import fuzz, table
from upscaled.models.install import install


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--inputs", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    os.environ.pop("UPSCALED_CONFIG", None)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        install(models)
        outcome = asyncio.run(fuzz(Path(folder), models, inputs=options.inputs, seed=options.seed))
    print(table(outcome))
    print("\n".join(outcome.problems[:50]))
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
