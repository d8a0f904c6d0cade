"""The table of settings as ``docs/configuration.md`` shows it, made from ``upscaled.config``."""

from __future__ import annotations

from upscaled.config import SECTIONS, Setting, settings


def literal(value: object) -> str:
    """Write a default the way ``config.yaml`` does."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    if isinstance(value, float):
        return f"{value:g}"
    return '""' if value == "" else str(value)


def row(setting: Setting) -> str:
    """Return the setting's line of the table."""
    rule = setting.rule
    meaning = rule.help.replace("|", "\\|").replace("<", "\\<")
    if rule.choices:
        meaning += " Allowed: " + ", ".join(f"`{choice}`" for choice in rule.choices) + "."
    elif rule.maximum is not None:
        meaning += f" Allowed: {rule.minimum:.10g} to {rule.maximum:.10g}."
    elif rule.minimum is not None:
        meaning += f" Allowed: {rule.minimum:.10g} or more."
    flag = f"`{rule.flag}`" if rule.flag else ""
    cells = (f"`{setting.key}`", f"`{literal(setting.default)}`", f"`{setting.env}`", flag, meaning)
    return "| " + " | ".join(cells) + " |"


def table() -> str:
    """Return one Markdown table per section, in the order of the file."""
    parts = []
    for section, cls in SECTIONS.items():
        rows = [row(setting) for setting in settings() if setting.section == section]
        head = "| key | default | environment | flag | meaning |\n|---|---|---|---|---|"
        parts.append("\n".join([f"## `{section}`", "", f"{cls.__doc__}", "", head, *rows]))
    return "\n\n".join(parts)
