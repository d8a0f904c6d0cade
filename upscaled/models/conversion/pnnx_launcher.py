"""Confines this process and becomes pnnx: ``python -m … WORKDIR MEMORY_MB PNNX [ARG …]``.

pnnx reads what a confined process recorded of an untrusted file. It can reach its work folder only,
has no network and starts no other program.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from upscaled.imaging.sandbox.sandbox import enter_sandbox
from upscaled.models.conversion.confined_work import limit_resources

_LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib/ld-musl-x86_64.so.1")


def main() -> None:
    """Run the program in the given folder."""
    workdir, memory_mb, program = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    limit_resources(memory_mb)
    os.chdir(workdir)
    loaders = (Path(loader) for loader in _LOADERS)
    enter_sandbox([], [workdir], runnable=[Path(program), *loaders])
    os.execv(program, sys.argv[3:])  # noqa: S606 - pnnx itself


if __name__ == "__main__":
    main()
