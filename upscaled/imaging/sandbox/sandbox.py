"""The sandbox around a process that decodes untrusted data: restricts what it can reach.

`limits` bounds the resources of the process; this module bounds its access. Landlock leaves it only
the files it needs. Seccomp takes away network, programs and administration. Both work without
privileges and inside containers, where bubblewrap's user namespaces often fail, and neither needs a
helper program. If one is unavailable, the sandbox is weaker and reports that.
"""

from __future__ import annotations

import functools
import site
import sys
import sysconfig
from collections.abc import Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import upscaled
from upscaled.imaging.sandbox import landlock, seccomp

_LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store")
_LOADER_CACHE = "/etc/ld.so.cache"


@dataclass(frozen=True)
class Confinement:
    """The ``active`` measures of the sandbox, and the ``lacking`` ones with the reason."""

    active: tuple[str, ...]
    lacking: tuple[str, ...]

    def __str__(self) -> str:
        """Return for example ``files (Landlock 7) and system calls (seccomp)``, and what is
        lacking.
        """
        text = " and ".join(self.active) or "nothing but limits"
        return f"{text}; lacking: {'; '.join(self.lacking)}" if self.lacking else text


@dataclass(frozen=True)
class Restrictions:
    """The parts that every sandbox shares; an unavailable one is the error that says why."""

    rules: landlock.FileRules | OSError
    program: seccomp.Program | OSError


@functools.lru_cache(maxsize=2)
def restrictions(*, programs: bool = False) -> Restrictions:
    """Return the shared parts. Call it once before forking processes that need them.

    Args:
        programs: system calls may run programs; which ones, the rules for files say.
    """
    rules: landlock.FileRules | OSError
    program: seccomp.Program | OSError
    try:
        rules = landlock.read_rules(code_folders())
    except OSError as error:
        rules = error
    try:
        program = seccomp.compile_filter(allowed=("execve",) if programs else ())
    except OSError as error:
        program = error
    return Restrictions(rules, program)


def enter_sandbox(
    readable: Collection[Path], writable: Collection[Path], runnable: Collection[Path] = ()
) -> Confinement:
    """Confine this thread, and all that it starts, permanently; never fails if a means is missing.

    Call it before other threads are started, since running threads are not confined.

    Args:
        readable: files and folders that may be read, in addition to Python's own.
        writable: folders in which files may also be created, changed and deleted.
        runnable: programs that may be run, with their loaders; they stay confined.
    """
    active, lacking = [], []
    found = restrictions(programs=bool(runnable))
    try:
        if isinstance(found.rules, OSError):
            raise found.rules
        number = landlock.restrict(found.rules, readable, writable, runnable)
    except OSError as error:
        lacking.append(f"files (Landlock: {error.strerror})")
    else:
        active.append(f"files (Landlock {number})")
    try:
        if isinstance(found.program, OSError):
            raise found.program
        seccomp.restrict(found.program)
    except OSError as error:
        lacking.append(f"system calls (seccomp: {error.strerror or error})")
    else:
        active.append("system calls (seccomp)")
    return Confinement(tuple(active), tuple(lacking))


def code_folders() -> tuple[Path, ...]:
    """Return the folders from which Python and its libraries load code, even late."""
    names = ("stdlib", "platstdlib", "purelib", "platlib")
    folders = {sysconfig.get_path(name) for name in names}
    # sysconfig does not list Debian's own packages or those of a user.
    folders |= {*site.getsitepackages(), *_LIBRARIES, _LOADER_CACHE}
    # Found, not loaded: the server itself needs neither.
    found = map(find_spec, ("numpy", "PIL"))
    packages = {Path(spec.origin).parent.parent for spec in found if spec and spec.origin}
    return (
        Path(upscaled.__path__[0]),
        Path(sys.base_prefix, "lib"),
        *sorted(packages),
        *map(Path, sorted(folders)),
    )
