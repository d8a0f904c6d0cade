"""The ledger of a folder of results: what was made of what, so that a run does only what changed.

``.upscaled/ledger.jsonl`` in the output folder has one line of JSON for each outcome; the last line
about a result counts. A line is appended by a single write. A run that is killed leaves at most one
incomplete line, which is ignored. The file is written anew when most of its lines are outdated.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
from dataclasses import dataclass
from pathlib import Path

from upscaled import files, serial
from upscaled.batch.folding import Folding, probed, seen
from upscaled.batch.outputs import OutputGoneError
from upscaled.batch.work_folders import work_folder
from upscaled.errors import ConfigError

FOLDER = ".upscaled"
"""In the output folder: the ledger, its lock, and the work of runs that were stopped."""
_NAME = "ledger.jsonl"
_SPARE_LINES = 1000
"""Outdated lines that are always kept."""


@dataclass(frozen=True)
class Signature:
    """What shows, without reading it, whether a file has changed."""

    size: int
    mtime_ns: int
    ctime_ns: int
    """Changes with the content, and can't be set back by a program."""

    @classmethod
    def of(cls, path: Path) -> Signature:
        """Return the signature of a file; blocking.

        Raises:
            OSError: it is not there.
        """
        found = path.stat()
        return cls(found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True)
class LedgerEntry:
    """One line."""

    target: str
    """The result, relative to the output folder."""
    source: str
    """The picture, as an absolute path."""
    signature: Signature
    """The picture's."""
    sha256: str
    """The picture's."""
    options: dict[str, str]
    """The fields, with the defaults that were filled in."""
    result_bytes: int | None = None
    """Size of the result; None: it failed."""
    code: str | None = None
    """Why it failed."""
    error: str | None = None
    """The same as a sentence."""
    version: int = 1


@dataclass(frozen=True)
class _Dropped:
    """A line that takes back those before it."""

    dropped: str
    """The result."""


class Ledger:
    """The ledger of one output folder, locked against a second run.

    Args:
        folder: the output folder; it is created.
        read_only: change nothing, and lock nothing: nothing will be recorded.

    Raises:
        ConfigError: it can't be written, or another run uses it.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        self.folder = folder
        self._path = folder / FOLDER / _NAME
        self._entries: dict[str, LedgerEntry] = {}
        self._lines = 0
        self._writing = threading.Lock()
        self._lock_path = self._path.with_name("lock")
        self._file = self._lock = -1
        self.work = work_folder(folder, folder / FOLDER / "work")
        """For this run's service; the next run continues the work in it."""
        if read_only:
            self._read()
        else:
            self._take(folder)

    def _take(self, folder: Path) -> None:
        """Make the folder, lock it and open the file."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ConfigError(f"{folder} can't be written: {error.strerror}.") from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._lock)
            raise ConfigError(
                f"Another upscaled process works on {folder}; wait for its end or name another "
                "folder."
            ) from None
        except OSError:  # a file system without locks
            pass
        for place in (folder, self._path.parent):
            files.remove_parts(place)
        is_torn = self._read()
        self._file = self._opened()
        if is_torn:
            os.write(self._file, b"\n")

    def _read(self) -> bool:
        """Read the file; tell whether its last line is incomplete."""
        content = b""
        with contextlib.suppress(FileNotFoundError):
            content = self._path.read_bytes()
        lines = content.split(b"\n")
        for line in lines:
            with contextlib.suppress(ValueError):
                if line.startswith(b'{"dropped"'):
                    self._entries.pop(serial.decode(line, _Dropped).dropped, None)
                else:
                    entry = serial.decode(line, LedgerEntry)
                    self._entries[entry.target] = entry
        self._lines = len(lines)
        return not content.endswith(b"\n") and content != b""

    def _opened(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def _append(self, line: _Dropped | LedgerEntry) -> None:
        with self._writing:
            text = serial.encode(line) + b"\n"
            written = os.write(self._file, text)
            if written < len(text):  # the disk is full; half a line would spoil the next one
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._lines += 1
            if isinstance(line, LedgerEntry):
                self._entries[line.target] = line
            else:
                self._entries.pop(line.dropped, None)
            if self._lines > 2 * len(self._entries) + _SPARE_LINES:
                self._compact()

    def _compact(self) -> None:
        """Write the file anew with the lines that count."""
        content = b"".join(serial.encode(entry) + b"\n" for entry in self._entries.values())
        files.replace(self._path, content, durable=True)
        os.close(self._file)
        self._file = self._opened()
        self._lines = len(self._entries)

    def close(self) -> None:
        """Unlock the folder."""
        for descriptor in (self._file, self._lock):
            if descriptor >= 0:
                os.close(descriptor)

    def folding(self) -> Folding:
        """Return which names of results are one in the folder; blocking."""
        if self._lock >= 0:
            with contextlib.suppress(OSError):
                return probed(self._path.parent)
        return seen(self.folder)

    def check_place(self) -> None:
        """Check that the folder is still the one that was opened; blocking.

        Raises:
            OutputGoneError: it was deleted, or another one is in its place.
            OSError: it can't be reached.
        """
        if self._lock < 0:
            return
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            if os.path.samestat(self._lock_path.stat(), os.fstat(self._lock)):
                return
        raise OutputGoneError(
            f"{self._path.parent} was deleted or replaced while the command used it; start the "
            "command again."
        )

    def key(self, target: Path) -> str:
        """Return the name of a result in the ledger."""
        return target.relative_to(self.folder).as_posix()

    def get(self, target: Path) -> LedgerEntry | None:
        """Return the entry about a result."""
        return self._entries.get(self.key(target))

    def put(self, entry: LedgerEntry) -> None:
        """Record an outcome; blocking, from any thread.

        Raises:
            OSError: the disk is full.
        """
        self._append(entry)

    def drop(self, target: Path) -> None:
        """Forget a result, since its picture is gone; blocking, from any thread.

        Raises:
            OSError: the disk is full.
        """
        if self.key(target) in self._entries:
            self._append(_Dropped(self.key(target)))


def is_current(
    entry: LedgerEntry | None, target: Path, source: Path, options: dict[str, str]
) -> LedgerEntry | None:
    """Return the entry if its result is there and was made of these pixels with these options.

    Reads the picture only if its signature changed. Blocking.

    Returns:
        None: it must be made. An entry with a new signature if only that changed.

    Raises:
        OSError: the picture can't be read.
    """
    if entry is None or entry.result_bytes is None or entry.options != options:
        return None
    try:
        if target.stat().st_size != entry.result_bytes:
            return None
    except OSError:
        return None
    signature = Signature.of(source)
    same_file = entry.source == str(source.absolute()) and entry.signature == signature
    if not same_file and files.sha256_of(source) != entry.sha256:
        return None
    if same_file:
        return entry
    return LedgerEntry(
        target=entry.target,
        source=str(source.absolute()),
        signature=signature,
        sha256=entry.sha256,
        options=entry.options,
        result_bytes=entry.result_bytes,
    )
