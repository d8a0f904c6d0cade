"""Generates ``config.yaml`` and ``docs/configuration.md`` from the table of settings.

``python -m testkit.settings_table`` writes both; a test compares them with the table.
"""

from __future__ import annotations

import textwrap

from testkit.paths import ROOT
from upscaled.config.table import SECTIONS, Setting, settings
from upscaled.config.types import Tokens

EXAMPLE_HEAD = """\
# Settings of upscaled: every key with its default. You may delete keys that you don't change.
# An environment variable UPSCALED_<SECTION>_<KEY> sets a key too, for instance
# UPSCALED_SERVER_PORT=9000. A flag of `upscaled serve` overrides the variable, and the variable
# overrides this file. Relative paths start at this file's folder. Details: docs/configuration.md.
"""

PAGE_HEAD = """\
# Configuration

A flag of `upscaled serve` overrides an environment variable, which overrides the configuration
file, which overrides the default. With an unknown key, a wrong type or an impossible value the
server does not start, and one sentence names the key, the value and what is allowed.

The file is the first of these: the one that `--config` names, the one that `UPSCALED_CONFIG`
names, `config.yaml` in the working directory, the checkout's own, the installed service's
`/etc/upscaled/config.yaml`. Relative paths in it start at its folder; relative paths in flags
start at the working directory. In an environment variable a list is written `0,1`, a truth value
`true` or `false`.
"""


def literal(setting: Setting) -> str:
    """Write a default the way YAML does."""
    value = setting.default
    if setting.type == Tokens:
        return "{}"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, float):
        return f"{value:.10g}"
    return '""' if value == "" else str(value)


def example() -> str:
    """Return the text of ``config.yaml``: every key, its meaning above it, its default."""
    parts = [EXAMPLE_HEAD]
    for section, cls in SECTIONS.items():
        entries = []
        for setting in settings():
            if setting.section == section:
                choices = " | ".join(setting.rule.choices)
                text = setting.rule.help + (f" ({choices})" if choices else "")
                comment = textwrap.fill(
                    text,
                    98,
                    initial_indent="  # ",
                    subsequent_indent="  # ",
                    break_on_hyphens=False,
                )
                entries.append(f"{comment}\n  {setting.key}: {literal(setting)}\n")
        parts.append(f"# {cls.__doc__}\n{section}:\n" + "\n".join(entries))
    return "\n".join(parts)


def _row(setting: Setting) -> str:
    rule = setting.rule
    meaning = rule.help.replace("|", "\\|").replace("<", "\\<")
    if rule.choices:
        meaning += " Allowed: " + ", ".join(f"`{choice}`" for choice in rule.choices) + "."
    elif rule.maximum is not None:
        meaning += f" Allowed: {rule.minimum:.10g} to {rule.maximum:.10g}."
    elif rule.minimum is not None:
        meaning += f" Allowed: {rule.minimum:.10g} or more."
    if rule.former:
        meaning += f" Former name: `{rule.former}`."
    flag = f"`{rule.flag}`" if rule.flag else ""
    cells = (f"`{setting.key}`", f"`{literal(setting)}`", f"`{setting.env}`", flag, meaning)
    return "| " + " | ".join(cells) + " |"


def page() -> str:
    """Return the text of ``docs/configuration.md``: a table per section."""
    parts = [PAGE_HEAD]
    for section, cls in SECTIONS.items():
        rows = [_row(setting) for setting in settings() if setting.section == section]
        head = "| key | default | environment | flag | meaning |\n|---|---|---|---|---|"
        parts.append("\n".join([f"## `{section}`", "", f"{cls.__doc__}", "", head, *rows, ""]))
    return "\n".join(parts)


FILES = {"config.yaml": example, "docs/configuration.md": page}

if __name__ == "__main__":
    for name, make in FILES.items():
        (ROOT / name).write_text(make(), "utf-8")
