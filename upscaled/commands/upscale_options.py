"""The arguments of ``upscaled upscale``; what they have in common with ``upscaled watch``."""

from __future__ import annotations

import argparse

from upscaled.fields import TABLE

_DEST = "field_"
_NAMES = {"model_name": ("--model", "--model-name")}
"""Options that are not named after their field."""

EPILOG = """\
examples:
  upscaled upscale photo.jpg large.png --scale 2
  upscaled upscale --recursive scans/ large/          a folder, its tree mirrored
  upscaled upscale *.jpg large/ --suffix _4x          photo.jpg becomes large/photo_4x.jpg
  upscaled upscale scans/ large/ --only-below 2MP     leave larger pictures alone
  upscaled upscale scans/ large/ --dry-run            what would be done, and how long it takes
  upscaled upscale scans/ large/ --server http://nas:8089
  curl -s https://example.org/a.jpg | upscaled upscale - - --format webp > a.webp

The same command again does only what changed since: new pictures, changed ones, other options, and
those that failed. Options go before or after the files, not between them.

exit status: 0 all done; 1 a picture failed; 2 a wrong command line or configuration; 130 stopped
by Ctrl-C, 143 by SIGTERM: the same command goes on where it was stopped.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what ``upscaled upscale`` takes."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    parser.add_argument(
        "inputs",
        metavar="IN",
        nargs="+",
        help="pictures, folders or patterns such as 'scans/*.png'; -: standard input",
    )
    parser.add_argument(
        "target",
        metavar="OUT",
        help="the result, whose suffix is its format, or the folder of the results; "
        "-: standard output",
    )
    which = parser.add_argument_group("which pictures")
    add_selection(which)
    which.add_argument(
        "--recursive", "-r", action="store_true", help="enter the folders in a folder"
    )
    which.add_argument(
        "--only-below",
        metavar="WxH|MP",
        help="only pictures of which both sides are smaller than WxH, in either "
        "orientation, or the area smaller than so many megapixels",
    )
    which.add_argument(
        "--skip-existing",
        action="store_true",
        help="leave out pictures whose result is there, whatever it was made of",
    )
    add_naming(which)
    add_fields(parser)
    run = parser.add_argument_group("the run")
    run.add_argument(
        "--dry-run",
        action="store_true",
        help="only tell what would be done, and about how long it takes",
    )
    add_server(run)
    run.add_argument(
        "--json", action="store_true", help="print one event a line as JSON (docs/command-line.md)"
    )


def add_selection(group: argparse._ArgumentGroup) -> None:
    """Add which files of a folder are taken."""
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


def add_naming(group: argparse._ArgumentGroup) -> None:
    """Add how results are named."""
    group.add_argument(
        "--suffix",
        metavar="TEXT",
        default="",
        help="goes into the results' names: photo.jpg, _4x: photo_4x.jpg",
    )


def add_server(group: argparse._ArgumentGroup) -> None:
    """Add where the work is done."""
    group.add_argument("--server", metavar="URL", help="let this server do the work")
    group.add_argument(
        "--token",
        metavar="TOKEN",
        help="its token; the variable UPSCALED_TOKEN keeps it out of the list of processes",
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
