"""A copy of the checkout's scripts that runs without network and pip."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from testkit.paths import ROOT

_PROGRAMS = (
    "awk bash basename cat chmod cp df dirname env flock grep head id ln ls mkdir mktemp mv rm sed "
    "sha256sum sleep tail touch tr uname"
)

STAND_IN = """#!/usr/bin/env bash
echo "$(basename "$0") $*" >>"$CALLS"
case "$*" in
  *"sys.version_info <"*) exit "${TOO_OLD:-0}" ;;
  *"import ensurepip"*) exit "${NO_VENV:-0}" ;;
  *"sys.version, sys.base_prefix"*) echo "${VERSION:-3.13 stand-in}" ;;
  *python_version*) echo 3.9.2 ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; exit "${VENV_FAILS:-0}" ;;
  *"pip install --help") echo "  --group <[path:]group>" ;;
  *"upscaled models install"*) exit "${MODELS_FAIL:-0}" ;;
  *" openvino>="*) exit "${OPENVINO_FAILS:-0}" ;;
  *"pip install "*) echo "${PIP_SAYS:-}"; exit "${PIP_FAILS:-0}" ;;
esac
"""
"""Replaces python3 and the environment's python: it logs every call, makes "environments" that
contain itself, and fails where a variable says so."""


class Checkout:
    """A copy of the scripts, and a PATH with the stand-in for Python and a few system programs."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a checkout"
        self.tools = folder / "tools"
        self._calls = folder / "calls"
        shutil.copytree(ROOT / "scripts", self.root / "scripts")
        shutil.copy(ROOT / "pyproject.toml", self.root)
        self.tools.mkdir()
        for name in _PROGRAMS.split():
            if found := shutil.which(name):
                (self.tools / name).symlink_to(found)
        self.put("python3", STAND_IN)
        # It would download; its own test puts the real one back.
        (self.root / "scripts" / "fetch-test-parts").write_text("#!/usr/bin/env bash\n")

    def put(self, name: str, text: str) -> None:
        """Put a program into PATH."""
        path = self.tools / name
        path.unlink(missing_ok=True)  # it may be a link to the system's own, which must stay
        path.write_text(text)
        path.chmod(0o755)

    def run(
        self, script: str, *arguments: str, env: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a script with another working directory than the checkout.

        It is a process group of its own, as in a terminal.
        """
        return subprocess.run(
            [self.root / script, *arguments],
            env={
                "PATH": str(self.tools),
                "CALLS": str(self._calls),
                "OPENVINO": "no",
                **(env or {}),
            },
            cwd=self.root.parent,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def calls(self) -> list[str]:
        """Return the calls of the stand-ins since the last time, one line each."""
        text = self._calls.read_text() if self._calls.exists() else ""
        self._calls.unlink(missing_ok=True)
        return text.splitlines()
