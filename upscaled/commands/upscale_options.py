"""The arguments of ``upscaled upscale``; what they have in common with ``upscaled watch``."""

from __future__ import annotations

import argparse

from upscaled.submission_fields import TABLE

_DEST = "field_"
_NAMES = {"model_name": ("--model", "--model-name")}
"""Options that are not named after their field."""

EPILOG = """\
examples:
  upscaled upscale photo.jpg large.png --scale 2
  upscaled upscale --recursive scans/ large/          a folder, its tree mirrored
  upscaled upscale *.jpg large/ --suffix _4x          photo.jpg becomes large/photo_4x.jpg
  upscaled upscale book.cbz large/                    also ZIP, EPUB and TAR
  upscaled upscale scans/ large/ --only-below 2MP     leave larger pictures alone
  upscaled upscale scans/ large/ --dry-run            what would be done, and how long it takes
  upscaled upscale scans/ large/ --server http://nas:8089
  curl -s https://example.org/a.jpg | upscaled upscale - - --format webp > a.webp

The same command again does only what changed since: new pictures, changed ones, other options, and
those that failed. Options go before or after the files, not between them.

exit status: 0 all done; 1 a picture failed; 2 a wrong command line or configuration; 130 stopped
by Ctrl-C, 143 by SIGTERM: the same command continues where it stopped.
"""

WATCH_EPILOG = """\
examples:
  upscaled watch inbox/ large/ --scale 2
  upscaled watch inbox/ large/ --done move --done-folder originals/
  upscaled watch -r /mnt/nas/in /mnt/nas/out --interval 10 --settle 30 --server http://nas:8089

A picture is taken when it has not changed for --settle seconds and no process on this machine has
it open for writing. Stop and start the command at any time: nothing is done twice.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``upscaled upscale`` takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        help="pictures, archives, folders or patterns such as 'scans/*.png'; -: standard input",
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        help="the result, whose suffix is its format, or the folder of the results; "
        "-: standard output",
    )
    which = add_selection(parser)
    which.add_argument(
        "--skip-existing",
        action="store_true",
        help="skip pictures whose result exists, whatever made it",
    )
    add_fields(parser)
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="only tell what would be done, and about how long it takes",
    )
    add_run(run)


def add_watch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``upscaled watch`` takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = WATCH_EPILOG
    parser.add_argument("folder", metavar="IN", help="the folder to watch")
    parser.add_argument("target", metavar="OUT", help="the folder of the results")
    add_selection(parser)
    group = parser.add_argument_group("what happens to the pictures")
    group.add_argument(
        "--done",
        choices=("keep", "move", "delete"),
        default="keep",
        help="what to do with a picture when its result is finished (default: %(default)s)",
    )
    group.add_argument(
        "--done-folder", metavar="FOLDER", help="where --done move puts it (default: IN/done)"
    )
    group.add_argument(
        "--failed-folder",
        metavar="FOLDER",
        help="where pictures go that can't be upscaled, each with a text file that says why "
        "(default: IN/failed)",
    )
    group.add_argument(
        "--settle",
        metavar="SECONDS",
        type=float,
        default=2.0,
        help="how long a picture must be unchanged before it is taken (default: %(default)s)",
    )
    group.add_argument(
        "--interval",
        metavar="SECONDS",
        type=float,
        default=1.0,
        help="between two scans of the folder (default: %(default)s)",
    )
    add_fields(parser)
    add_run(parser.add_argument_group("the work"))


def add_selection(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """Add which files of a folder are taken, and how results are named."""
    group = parser.add_argument_group("which pictures")
    group.add_argument(
        "--include",
        metavar="PATTERN",
        action="append",
        default=[],
        help="of folders, take files that match, such as '*.scan'; default: names "
        "of pictures. May be given several times",
    )
    group.add_argument(
        "--exclude",
        metavar="PATTERN",
        action="append",
        default=[],
        help="of folders, leave out files and folders that match",
    )
    group.add_argument(
        "--recursive", "-r", action="store_true", help="enter the folders in a folder"
    )
    group.add_argument(
        "--only-below",
        metavar="WxH|MP",
        help="only pictures of which both sides are smaller than WxH, in either "
        "orientation, or the area smaller than so many megapixels",
    )
    group.add_argument(
        "--suffix",
        metavar="TEXT",
        default="",
        help="goes into the results' names: photo.jpg, _4x: photo_4x.jpg",
    )
    return group


def add_run(group: argparse._ArgumentGroup) -> None:
    """Add where the work is done, and how it is shown."""
    group.add_argument("--server", metavar="URL", help="let this server do the work")
    group.add_argument(
        "--token",
        metavar="TOKEN",
        help="its token; the variable UPSCALED_TOKEN keeps it out of the list of processes",
    )
    group.add_argument(
        "--json", action="store_true", help="print one event a line as JSON (docs/command-line.md)"
    )


def add_fields(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of the API."""
    group = parser.add_argument_group("the results, as in the API")
    for field in TABLE:
        names = _NAMES.get(field.name, (f"--{field.name.replace('_', '-')}",))
        help_ = field.allowed.replace("%", "%%")
        if field.flag:
            group.add_argument(
                *names,
                dest=_DEST + field.name,
                help=help_,
                default=None,
                action=argparse.BooleanOptionalAction,
            )
        else:
            metavar = "|".join(field.words) or field.name.upper().removesuffix("_NAME")
            group.add_argument(*names, dest=_DEST + field.name, metavar=metavar, help=help_)


def fields_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the fields that were given."""
    found = {field.name: getattr(options, _DEST + field.name) for field in TABLE}
    return {
        name: str(value).lower() if isinstance(value, bool) else value
        for name, value in found.items()
        if value is not None
    }
