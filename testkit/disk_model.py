"""What a disk may hold after a power cut: records file operations, and enumerates what is legal.

The model is weaker than any real file system, as in ALICE (Pillai et al., OSDI 2014) and in
SQLite's crash tests: until a file is synced (fsync), any of its content may be missing; until a
folder is synced, each change of its entries may have happened or not, in any combination.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

ALL_COMBINATIONS = 4
"""Up to so many unsynced changes, every combination of them is tried; of more, those in which one
is missing, only one has happened, or they end early."""

Tree = dict[str, bytes | None]
"""The content of a folder, by relative path; None for a folder."""


@dataclass(eq=False)
class _Node:
    """A file or a folder."""

    is_folder: bool
    content: bytes = b""
    synced: bytes = b""
    entries: dict[str, _Node] = field(default_factory=dict)
    """A folder's entries that are surely on the disk."""


@dataclass(frozen=True, eq=False)
class _Change:
    """A change of entries that may not be on the disk yet."""

    parts: tuple[tuple[_Node, str, _Node | None], ...]
    """Folder, name, and what the name stands for afterwards; None: nothing."""


@dataclass(frozen=True)
class CrashPoint:
    """A moment at which the power may go."""

    operation: str
    """What was done last."""
    records: dict[str, bytes]
    """The files of the record database, which counts as atomic for each commit."""
    promises: tuple[tuple[str, str], ...]
    """The answers that callers had by then, oldest first."""
    trees: tuple[Tree, ...]
    """What the disk may hold."""


class Recorder:
    """Records what this process does below ``root``, which itself is surely on the disk.

    Files named ``ignored…`` are left out: of the database only whole commits count, which
    `commit` is told of. SQLite's authors test its recovery from torn files themselves, as long as
    every commit is synced (``synchronous=FULL``).

    Args:
        root: an empty folder.
        ignored: how names begin that are left out.
        thorough: try combinations of changes, and several kinds of torn files.
    """

    def __init__(self, root: Path, ignored: str, *, thorough: bool) -> None:
        self._root = root
        self._ignored = ignored
        self._thorough = thorough
        self._lock = threading.RLock()
        self._top = _Node(is_folder=True)
        self._nodes: dict[int, _Node] = {}
        self._seen: dict[str, int] = {}
        self._pending: list[_Change] = []
        self._records: dict[str, bytes] = {}
        self._promises: list[tuple[str, str]] = []
        self.points: list[CrashPoint] = []

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Watch the functions that change entries or sync, for the length of the block."""
        watched: dict[str, Callable[..., Any]] = {
            "fsync": self._fsync, "fdatasync": self._fsync, "rename": self._rename,
            "replace": self._rename, "link": self._link, "unlink": self._unlink,
            "remove": self._unlink, "rmdir": self._unlink, "mkdir": self._plain,
        }  # fmt: skip
        with ExitStack() as stack:
            for name, note in watched.items():
                watching = _watching(getattr(os, name), note)
                stack.enter_context(mock.patch.object(os, name, watching))
            yield
        with self._lock:
            self._look("end")

    def commit(self, files: dict[str, bytes]) -> None:
        """Note that the database has reached the disk as ``files``."""
        with self._lock:
            self._look("before commit")
            self._records = files
            self._crash_point("commit")

    def promise(self, what: str, job_id: str) -> None:
        """Record what a caller is being told."""
        with self._lock:
            self._promises.append((what, job_id))
            self._look(f"promise {what}")

    # --- operations ---------------------------------------------------------------------------

    def _fsync(self, do: Callable[..., Any], descriptor: int, **_: Any) -> None:
        path = _path_of(descriptor)
        with self._lock:
            self._look(f"before sync {path.name}")
            do(descriptor)
            node = self._node(path)
            if node is None:
                return
            node.synced = node.content
            for change in list(self._pending):
                if any(folder is node for folder, _, _ in change.parts):
                    self._settle(change)
            self._crash_point(f"sync {path.name}")

    def _rename(self, do: Callable[..., Any], source: Any, target: Any, **more: Any) -> None:
        with self._lock:
            self._look(f"before rename {target}")
            do(source, target, **more)
            here, there = _absolute(source), _absolute(target)
            node, old, new = self._node(here), self._node(here.parent), self._node(there.parent)
            if node is None or old is None or new is None:
                self._look("rename from elsewhere")
                return
            number = self._seen.pop(str(here))
            self._forget(there)
            self._seen[str(there)] = number
            for path in [path for path in self._seen if path.startswith(f"{here}/")]:
                self._seen[str(there) + path[len(str(here)) :]] = self._seen.pop(path)
            self._pending.append(_Change(((new, there.name, node), (old, here.name, None))))
            self._crash_point(f"rename {here.name} to {there.name}")

    def _link(self, do: Callable[..., Any], source: Any, target: Any, **more: Any) -> None:
        with self._lock:
            self._look(f"before link {target}")
            do(source, target, **more)
            here, there = _absolute(source), _absolute(target)
            node, folder = self._node(here), self._node(there.parent)
            if node is None or folder is None:
                self._look("link from elsewhere")
                return
            self._seen[str(there)] = self._seen[str(here)]
            self._pending.append(_Change(((folder, there.name, node),)))
            self._crash_point(f"link {there.name}")

    def _unlink(self, do: Callable[..., Any], path: Any, **more: Any) -> None:
        with self._lock:
            self._look(f"before unlink {path}")
            do(path, **more)
            folder = _path_of(more["dir_fd"]) if more.get("dir_fd") is not None else Path()
            whole = _absolute(folder / path)
            parent = self._node(whole.parent)
            if str(whole) in self._seen and parent is not None:
                self._forget(whole)
                self._pending.append(_Change(((parent, whole.name, None),)))
                self._crash_point(f"unlink {whole.name}")

    def _plain(self, do: Callable[..., Any], *arguments: Any, **more: Any) -> None:
        with self._lock:
            self._look("before mkdir")
            do(*arguments, **more)
            self._look(f"mkdir {arguments[0]}")

    def _node(self, path: Path) -> _Node | None:
        if path == self._root:
            return self._top
        number = self._seen.get(str(path))
        return None if number is None else self._nodes[number]

    def _forget(self, path: Path) -> None:
        """Note that a name is gone; its file is gone with its last name."""
        number = self._seen.pop(str(path), None)
        if number is not None and number not in self._seen.values():
            del self._nodes[number]

    def _settle(self, change: _Change) -> None:
        self._pending.remove(change)
        for folder, name, node in change.parts:
            _apply(folder.entries, name, node)

    def _look(self, operation: str) -> None:
        """Find files that were made or written since the last look; content counts as unsynced."""
        changed = False
        for folder, folders, files in os.walk(self._root):
            for name in sorted([*folders, *files]):
                if name.startswith(self._ignored):
                    continue
                path = Path(folder, name)
                try:
                    number = path.stat().st_ino
                    content = b"" if path.is_dir() else path.read_bytes()
                except FileNotFoundError:
                    continue
                node = self._nodes.get(number)
                if str(path) not in self._seen:
                    parent = self._node(path.parent)
                    assert parent is not None
                    node = self._nodes[number] = _Node(path.is_dir())
                    self._seen[str(path)] = number
                    self._pending.append(_Change(((parent, name, node),)))
                    changed = True
                assert node is not None
                if node.content != content:
                    node.content = content
                    changed = True
        if changed or operation.startswith(("promise", "end")):
            self._crash_point(operation)

    # --- what may be left ---------------------------------------------------------------------

    def _crash_point(self, operation: str) -> None:
        trees: dict[tuple[tuple[str, bytes | None], ...], None] = {}
        for subset in self._subsets():
            for tear in _TEARS if self._thorough else _TEARS[:3]:
                tree = self._tree(subset, tear)
                trees[tuple(sorted(tree.items()))] = None
        self.points.append(
            CrashPoint(
                operation,
                self._records,
                tuple(self._promises),
                tuple(dict(tree) for tree in trees),
            )
        )

    def _subsets(self) -> Iterator[tuple[_Change, ...]]:
        pending, count = self._pending, len(self._pending)
        yield tuple(pending)
        yield ()
        if not self._thorough:
            return
        if count <= ALL_COMBINATIONS:
            for size in range(1, count):
                yield from itertools.combinations(pending, size)
            return
        for number in range(count):
            yield tuple(pending[:number] + pending[number + 1 :])
            yield (pending[number],)
            yield tuple(pending[:number])

    def _tree(self, changes: tuple[_Change, ...], tear: Callable[[bytes, bytes], bytes]) -> Tree:
        overlay: dict[int, dict[str, _Node]] = {}
        for change in changes:
            for folder, name, node in change.parts:
                _apply(overlay.setdefault(id(folder), dict(folder.entries)), name, node)
        tree: Tree = {}

        def fill(folder: _Node, prefix: str) -> None:
            for name, node in overlay.get(id(folder), folder.entries).items():
                if node.is_folder:
                    tree[prefix + name] = None
                    fill(node, f"{prefix}{name}/")
                else:
                    tree[prefix + name] = tear(node.synced, node.content)

        fill(self._top, "")
        return tree


def _apply(entries: dict[str, _Node], name: str, node: _Node | None) -> None:
    if node is None:
        entries.pop(name, None)
    else:
        entries[name] = node


def _torn(synced: bytes, content: bytes) -> bytes:
    """Half of what was written since the last sync has reached the disk."""
    if synced == content:
        return content
    return content[: (len(synced) + len(content)) // 2]


def _zeros(synced: bytes, content: bytes) -> bytes:
    """The length has reached the disk, the last half of the content has not."""
    if synced == content:
        return content
    return content[: len(content) // 2] + bytes(len(content) - len(content) // 2)


_TEARS: tuple[Callable[[bytes, bytes], bytes], ...] = (
    lambda _, content: content,
    lambda synced, _: synced,
    _torn,
    _zeros,
)


def _watching(do: Callable[..., Any], note: Callable[..., None]) -> Callable[..., None]:
    def watched(*arguments: Any, **more: Any) -> None:
        note(do, *arguments, **more)

    return watched


def _path_of(descriptor: int) -> Path:
    return Path(f"/proc/self/fd/{descriptor}").readlink()


def _absolute(path: Any) -> Path:
    return Path(Path.cwd(), path)


def write_tree(tree: Tree, root: Path) -> None:
    """Make ``tree`` below ``root``."""
    for name, content in sorted(tree.items()):
        if content is None:
            (root / name).mkdir(mode=0o700)
        else:
            (root / name).write_bytes(content)
