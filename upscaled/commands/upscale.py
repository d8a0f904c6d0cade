"""``upscaled upscale``: one picture into a file, or many into a folder."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import glob
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from pathlib import Path, PurePath

from upscaled import files
from upscaled.batch.archive_upscaler import is_archive
from upscaled.batch.batch import Batch, Options
from upscaled.batch.items import Item, Selection, Unreadable, find
from upscaled.batch.ledger import Ledger
from upscaled.batch.naming import NamesResults, Naming, OneName
from upscaled.batch.outputs import as_sentence
from upscaled.batch.upscaler import Made, Task
from upscaled.batch.work_folders import work_folder
from upscaled.commands.progress import ProgressBar
from upscaled.commands.reports import reporting
from upscaled.commands.upscale_options import fields_of
from upscaled.commands.upscalers import made_by, sizes, with_archives
from upscaled.config.settings import Config
from upscaled.errors import BadRequestError, ConfigError
from upscaled.formats import by_alias
from upscaled.pictures import SizeLimit

_STREAM = "-"


async def upscale(options: argparse.Namespace, config: Config) -> int:
    """Run the command; return its exit status."""
    fields = fields_of(options)
    if _STREAM in {*options.inputs, options.target}:
        return await _upscale_streams(options, config, fields)
    if not _is_one_file(options):
        return await _upscale_folder(options, config, fields)
    source, target = Path(options.inputs[0]), Path(options.target)
    one_by_one = (options.json, options.dry_run, options.skip_existing, options.only_below)
    if is_archive(source) or any(one_by_one):
        return await _upscale_one_as_batch(options, config, fields, source, target)
    await _upscale_one(options, config, fields, source, target)
    return 0


def _is_one_file(options: argparse.Namespace) -> bool:
    """Tell whether one file becomes another file, rather than one in a folder."""
    (first, *others), target = options.inputs, options.target
    # These report no error for a name that is too long; the checks of a single file do.
    if others or os.path.isdir(first) or os.path.isdir(target) or target.endswith(os.sep):  # noqa: PTH112
        return False
    if is_archive(PurePath(first)) and not is_archive(PurePath(target)):
        return False
    return os.path.lexists(first) or not glob.has_magic(first)


# --- one file ---------------------------------------------------------------------------------


async def upscale_file(
    config: Config,
    source: Path,
    target: Path,
    fields: Mapping[str, str],
    on_progress: Callable[[int], None],
    *,
    options: argparse.Namespace | None = None,
) -> Made:
    """Upscale the picture ``source`` into the file ``target``.

    ``target`` is written completely or not at all; an existing file is replaced. Its suffix sets
    the result's format where ``fields`` has none.

    Args:
        config: the settings; of ``storage``, only the cache of model properties is used.
        source: the picture; it is not changed.
        target: the result.
        fields: as in a request to the server, without ``image``.
        on_progress: called with the percentage whenever it changes.
        options: name the server that does the work; None: no server.

    Returns:
        What was made.

    Raises:
        UpscaledError: one sentence about what is wrong with the files, the fields or the result.
    """
    fields = _with_format(fields, target)
    async with _work_folder(source, target) as folder:
        # Beside the target, so that the result is linked into place, not copied.
        chosen = options or argparse.Namespace(server=None)
        async with made_by(chosen, config, folder) as upscaler:
            return await upscaler.upscale(Task(source, target, fields), on_progress)


def _with_format(fields: Mapping[str, str], target: Path) -> dict[str, str]:
    """Return the fields with the format that the suffix of ``target`` means.

    Raises:
        BadRequestError: the fields name another one.
    """
    fields, suffix = dict(fields), target.suffix.removeprefix(".").lower()
    if suffix:
        named = fields.setdefault("format", suffix).lower()
        if (by_alias(named) or named) != (by_alias(suffix) or suffix):
            raise BadRequestError(
                f"The format is {named}, but the result's name ends in .{suffix}; make them match."
            )
    return fields


async def _upscale_one(
    options: argparse.Namespace,
    config: Config,
    fields: Mapping[str, str],
    source: Path,
    target: Path,
) -> None:
    progress = ProgressBar(sys.stderr, source.name)
    try:
        made = await upscale_file(config, source, target, fields, progress.show, options=options)
        progress.show(100)
    finally:
        progress.close()
    print(f"{target}: {made.input_size} to {made.output_size} on {made.device}")


async def _upscale_one_as_batch(
    options: argparse.Namespace,
    config: Config,
    fields: Mapping[str, str],
    source: Path,
    target: Path,
) -> int:
    if not is_archive(source):
        fields = _with_format(fields, target)
    place = _scratch_folder(source, target) if options.dry_run else _work_folder(source, target)
    async with place as work:
        return await _run(
            options, config, fields, work,
            found=[Item(source, Path(target.name))], naming=OneName(target), ledger=None,
        )  # fmt: skip


@contextlib.asynccontextmanager
async def _work_folder(source: Path, target: Path) -> AsyncIterator[Path]:
    """Check both files; yield a folder beside the target that is deleted afterwards."""
    await asyncio.to_thread(_check_files, source, target)
    folder, held = await files.acquired_in_thread(
        lambda: _make_work_folder(source, target), lambda made: _give_up(*made)
    )
    try:
        yield folder
        with as_sentence(folder):
            await files.in_thread(shutil.rmtree, folder)
    finally:
        await files.in_thread(_give_up, folder, held)


@contextlib.asynccontextmanager
async def _scratch_folder(source: Path, target: Path) -> AsyncIterator[Path]:
    """Check both files; yield a folder for a dry run, which leaves nothing beside the target."""
    await asyncio.to_thread(_check_files, source, target)
    async with _temporary_folder() as folder:
        yield folder


@contextlib.asynccontextmanager
async def _temporary_folder() -> AsyncIterator[Path]:
    folder = Path(await asyncio.to_thread(tempfile.mkdtemp, prefix="upscaled-"))
    try:
        yield folder
    finally:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)


def _check_files(source: Path, target: Path) -> None:
    """Refuse what can't be upscaled into one file.

    Raises:
        ConfigError: a sentence that says why.
    """
    try:
        if not source.is_file():
            raise ConfigError(f"There is no file {source}.")
        if target.is_dir():
            raise ConfigError(f"{target} is a folder; name a file.")
        if _exists(target) and target.samefile(source):
            raise ConfigError(f"{target} is the picture itself; name another file for the result.")
        with source.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}.") from None


def _give_up(folder: Path, held: int | None) -> None:
    if held is not None:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _make_work_folder(source: Path, target: Path) -> tuple[Path, int | None]:
    """Make the folder for a run's data, and remove what killed runs left beside it.

    Returns:
        The folder, and the descriptor that holds it. None: a later run continues with it.

    Raises:
        ConfigError: a sentence that says why there can be none.
    """
    folder = target.absolute().parent
    try:
        files.remove_parts(folder)
        if is_archive(source):
            name = hashlib.sha256(os.fsencode(target.name)).hexdigest()[:16]
            work = folder / f".upscaled-{name}"
            work.mkdir(exist_ok=True)
            return work, None
        if (place := work_folder(folder, folder)) != folder:
            # On a network disk a lock may not be seen by other machines.
            Path(tempfile.mkdtemp(prefix=".upscaled-", dir=folder)).rmdir()  # it can be written
            place.mkdir(parents=True, exist_ok=True)
        files.remove_left_folders(place)
        return files.hold_new_folder(place)
    except OSError as error:
        raise ConfigError(f"{folder} can't be written: {error.strerror}.") from None


def _exists(path: Path) -> bool:
    """Tell whether ``path`` is there.

    Raises:
        OSError: it can't be, since its name is too long, for instance. `Path.exists` returns
            False for that since Python 3.14.
    """
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


# --- standard input and output ----------------------------------------------------------------


async def _upscale_streams(
    options: argparse.Namespace, config: Config, fields: Mapping[str, str]
) -> int:
    """Upscale one picture that comes from standard input, goes to standard output, or both."""
    if len(options.inputs) > 1:
        raise ConfigError("With -, give no other IN: standard input is one picture.")
    to_output = options.target == _STREAM
    if options.dry_run or options.only_below or options.json or options.skip_existing:
        raise ConfigError(
            "--dry-run, --only-below, --skip-existing and --json do not work with - (standard "
            "input or output)."
        )
    if to_output and sys.stdout.isatty():
        raise ConfigError("A picture is not for a terminal: add > FILE, or name the result.")
    async with _temporary_folder() as folder:
        source = Path(options.inputs[0])
        if options.inputs[0] == _STREAM:
            source = folder / "standard input"
            await asyncio.to_thread(_receive, source)
        target = folder / "result" if to_output else Path(options.target)
        if not to_output:
            await _upscale_one(options, config, fields, source, target)
            return 0
        progress = ProgressBar(sys.stderr, source.name)
        try:
            await upscale_file(config, source, target, fields, progress.show, options=options)
            progress.show(100)
        finally:
            progress.close()
        await asyncio.to_thread(_send, target)
        return 0


def _receive(target: Path) -> None:
    with as_sentence(target), target.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file)


def _send(source: Path) -> None:
    with source.open("rb") as file:
        shutil.copyfileobj(file, sys.stdout.buffer)
    sys.stdout.buffer.flush()


# --- a folder of results ----------------------------------------------------------------------


async def _upscale_folder(
    options: argparse.Namespace, config: Config, fields: Mapping[str, str]
) -> int:
    out = Path(options.target)
    _check_folder(options, out)
    ledger = await asyncio.to_thread(Ledger, out, read_only=options.dry_run)
    try:
        folding = await asyncio.to_thread(ledger.folding)
        selection = Selection(options.recursive, tuple(options.include), tuple(options.exclude))
        inputs_below = [Path(text) for text in options.inputs]
        # The output may lie in an input; an input may lie in the output, or be it.
        leave_out = [out] if not any(_is_below(path, out) for path in inputs_below) else []
        async with _temporary_folder() as scratch:
            return await _run(
                options, config, fields, scratch if options.dry_run else ledger.work,
                found=find(options.inputs, selection, leave_out=leave_out),
                naming=Naming(out, options.suffix, fields.get("format"), folding=folding),
                ledger=ledger,
            )  # fmt: skip
    finally:
        await asyncio.to_thread(ledger.close)


def _check_folder(options: argparse.Namespace, out: Path) -> None:
    """Refuse what can't become a folder of results."""
    if os.path.lexists(out) and not out.is_dir():
        raise ConfigError(f"{out} is a file; name a folder for the results.")
    if "/" in options.suffix or "\0" in options.suffix:
        raise ConfigError(f"--suffix is {options.suffix!r}; it must be text without a slash.")
    (first, *others) = options.inputs
    for path in map(Path, options.inputs):
        if not options.suffix and path.is_dir() and out.is_dir() and path.samefile(out):
            raise ConfigError(
                f"{out} is a folder of pictures itself; name another one for the results, or a "
                "--suffix."
            )
    if others or options.suffix or not Path(first).is_file():
        return
    target = Naming(out, "", fields_of(options).get("format")).target_of(
        Item(Path(first), Path(Path(first).name))
    )
    if target.exists() and target.samefile(first):
        raise ConfigError(
            f"{out} is a folder, and its {target.name} is the picture itself; name another folder "
            "or file for the result, or a --suffix."
        )


def _is_below(path: Path, folder: Path) -> bool:
    resolved = path.resolve()
    return folder.resolve() in {resolved, *resolved.parents}


async def _run(
    options: argparse.Namespace,
    config: Config,
    fields: Mapping[str, str],
    work: Path,
    *,
    found: Iterable[Item | Unreadable],
    naming: NamesResults,
    ledger: Ledger | None,
) -> int:
    """Run a batch and show it; return the exit status."""
    chosen = Options(
        fields,
        only_below=SizeLimit.parse(options.only_below) if options.only_below else None,
        skip_existing=options.skip_existing,
        dry_run=options.dry_run,
    )
    async with made_by(options, config, work) as upscaler, sizes(config) as size_of:
        with reporting(sys.stdout, sys.stderr, json=options.json) as report:
            archives = with_archives(upscaler, work, size_of, chosen.only_below, report)
            async with archives as both:
                batch = Batch(both, size_of, ledger, naming, chosen, report)
                await batch.prepare()
                try:
                    await batch.run(found)
                finally:
                    report(batch.summary)
    return 1 if batch.summary.failed or batch.summary.failed_pages else 0
