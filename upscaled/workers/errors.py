"""How a request to a worker process fails."""

from __future__ import annotations

from collections.abc import Sequence


class WorkerError(Exception):
    """The worker process failed; the request itself may be fine, so it can be tried again."""


class WorkerDiedError(WorkerError):
    """The worker ended in the middle of a request.

    Attributes:
        returncode: exit status or negative signal number; None: it could not be started.
        last_words: the last line of its standard error.
    """

    def __init__(self, name: str, returncode: int | None, stderr: str) -> None:
        self.returncode = returncode
        lines = [line.strip() for line in stderr.splitlines() if line.strip()]
        self.last_words = lines[-1] if lines else ""
        if returncode is None:
            how = "can't be started"
        elif returncode < 0:
            how = f"ended with signal {-returncode}"
        else:
            how = f"ended with status {returncode}"
        said = f": {self.last_words}" if self.last_words else ""
        super().__init__(f"the {name} process {how}{said}")


class WorkerShortageError(WorkerDiedError):
    """The worker could not be started because descriptors, processes or memory are short."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, None, reason)


class WorkerStuckError(WorkerError):
    """No worker can be started because an earlier process survives SIGKILL."""

    def __init__(self, name: str, pids: Sequence[int]) -> None:
        self.pids = tuple(pids)
        listed = ", ".join(map(str, pids))
        super().__init__(
            f"the {name} process ({listed}) does not end although it was killed; a driver or a "
            "disk is probably hanging"
        )


class WorkerRefusedError(Exception):
    """The worker answered with an error: ``kind`` is a name the caller knows, plus a sentence."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
