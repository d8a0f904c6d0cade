"""``upscaled completion``: completion scripts for bash, zsh and fish, made from the parser."""

from __future__ import annotations

import argparse

import shtab

SHELLS = ("bash", "zsh", "fish")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script of a shell, one of `SHELLS`; changes ``parser``."""
    _prepare(parser)
    return str(shtab.complete(parser, shell=shell))


def _prepare(parser: argparse.ArgumentParser) -> None:
    """Tell which arguments take files, and which a few words."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _prepare(below)
        elif action.nargs == 0 or action.choices:
            continue
        elif isinstance(action.metavar, str) and "|" in action.metavar.strip("WxHMP"):
            # Values that are a few words stand in the metavar, as in usage lines: png|jpg|webp.
            action.choices = action.metavar.split("|")
        else:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
