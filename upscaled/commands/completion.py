"""``upscaled completion``: completion scripts for bash, zsh and fish, made from the parser."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class _Option:
    """One option of a command."""

    names: tuple[str, ...]
    help: str
    takes_value: bool
    values: tuple[str, ...]
    """Those that it takes; empty: others than a few words."""


@dataclass(frozen=True)
class _Command:
    """A command, such as ``models import``; the first one has no words."""

    words: tuple[str, ...]
    help: str
    options: tuple[_Option, ...]
    actions: Mapping[str, str]
    """Names and help of the commands below."""


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return the completion script of a shell, one of `SHELLS`."""
    return SHELLS[shell](list(_commands(parser, (), "")))


def _commands(
    parser: argparse.ArgumentParser, words: tuple[str, ...], help_: str
) -> Iterator[_Command]:
    options, actions = [], {}
    below: list[tuple[str, argparse.ArgumentParser]] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            actions = {name: helps.get(name, "") for name in action.choices}
            below = list(action.choices.items())
        elif action.option_strings and action.help is not argparse.SUPPRESS:
            options.append(_option_of(action))
    yield _Command(words, help_, tuple(options), actions)
    for name, one in below:
        yield from _commands(one, (*words, name), actions[name])


def _option_of(action: argparse.Action) -> _Option:
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    # Values that are a few words stand in the metavar, as in usage lines: png|jpg|webp.
    few = "|" in metavar and metavar == metavar.lower()
    values = tuple(map(str, action.choices)) if action.choices else ()
    if few:
        values = tuple(metavar.split("|"))
    help_ = (action.help or "").replace("%%", "%").split("\n")[0]
    return _Option(tuple(action.option_strings), help_, action.nargs != 0, values)


def _bash(commands: list[_Command]) -> str:
    below = [" ".join((*command.words, name)) for command in commands for name in command.actions]
    known = "|".join(f'"{path}"' for path in below)
    words = "\n".join(
        f'    "{" ".join(command.words)}") words="'
        + " ".join([*command.actions, *(name for one in command.options for name in one.names)])
        + '" ;;'
        for command in commands
    )
    values = "\n".join(
        f'    "{" ".join(command.words)} {name}") COMPREPLY=($(compgen -W '
        f'"{" ".join(one.values)}" -- "$cur")); return ;;'
        for command in commands
        for one in command.options
        for name in one.names
        if one.values
    )
    return f"""# bash completion of upscaled
_upscaled() {{
  local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD-1]}} path="" word words=""
  for word in "${{COMP_WORDS[@]:1:COMP_CWORD-1}}"; do
    case "${{path:+$path }}$word" in
      {known}) path="${{path:+$path }}$word" ;;
    esac
  done
  case "$path" in
{words}
  esac
  case "$path $prev" in
{values}
  esac
  COMPREPLY=($(compgen -W "$words" -- "$cur"))
  if [[ $cur != -* && -n $path ]]; then
    mapfile -t -O "${{#COMPREPLY[@]}}" COMPREPLY < <(compgen -f -- "$cur")
  fi
}}
complete -o filenames -F _upscaled upscaled
"""


def _zsh(commands: list[_Command]) -> str:
    functions = []
    for command in commands:
        arguments = [_zsh_option(one) for one in command.options]
        if command.actions:
            arguments += ["'1: :->action'", "'*:: :->rest'"]
        else:
            arguments.append("'*: :_files'")
        body = f"  local -a actions\n  local state\n  _arguments -C {' '.join(arguments)}"
        if command.actions:
            name = "_".join(("_upscaled", *command.words))
            listed = " ".join(
                _quoted(f"{action}:{_zsh_text(help_)}") for action, help_ in command.actions.items()
            )
            cases = "\n".join(f"        {action}) {name}_{action} ;;" for action in command.actions)
            body += f"""
  case $state in
    action) actions=({listed}); _describe command actions ;;
    rest)
      case $words[1] in
{cases}
      esac ;;
  esac"""
        functions.append(f"{'_'.join(('_upscaled', *command.words))}() {{\n{body}\n}}")
    return "#compdef upscaled\n" + "\n".join(functions) + '\n_upscaled "$@"\n'


def _zsh_option(one: _Option) -> str:
    text = f"[{_zsh_text(one.help)}]"
    if one.takes_value:
        text += f": :({' '.join(one.values)})" if one.values else ": :_files"
    names = "{" + ",".join(one.names) + "}" if len(one.names) > 1 else one.names[0]
    return names + _quoted(text)


def _zsh_text(text: str) -> str:
    """Return a text without what has a meaning in a specification of zsh."""
    for mark in "\\:[]":
        text = text.replace(mark, "\\" + mark)
    return text


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def _fish(commands: list[_Command]) -> str:
    lines = ["# fish completion of upscaled"]
    for command in commands:
        seen = " ".join(f"; and __fish_seen_subcommand_from {word}" for word in command.words)
        condition = seen.removeprefix("; and ") or "__fish_use_subcommand"
        if command.actions and command.words:
            others = " ".join(command.actions)
            action_condition = f"{condition}; and not __fish_seen_subcommand_from {others}"
        else:
            action_condition = condition
        for name, help_ in command.actions.items():
            lines.append(
                f"complete -c upscaled -f -n {_fish_quoted(action_condition)} -a {name} "
                f"-d {_fish_quoted(help_)}"
            )
        for one in command.options:
            parts = [f"complete -c upscaled -n {_fish_quoted(condition)}"]
            parts += [f"-l {n[2:]}" if n.startswith("--") else f"-s {n[1:]}" for n in one.names]
            if one.values:
                parts.append(f"-x -a {_fish_quoted(' '.join(one.values))}")
            elif one.takes_value:
                parts.append("-r")
            parts.append(f"-d {_fish_quoted(one.help)}")
            lines.append(" ".join(parts))
    return "\n".join(lines) + "\n"


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Mapping[str, Callable[[list[_Command]], str]] = {
    "bash": _bash,
    "zsh": _zsh,
    "fish": _fish,
}
