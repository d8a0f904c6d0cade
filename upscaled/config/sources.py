"""Reads settings from defaults, a file, the environment and flags; later ones override earlier.

The file is YAML with one mapping per section; variables are ``UPSCALED_<SECTION>_<KEY>``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

import yaml

from upscaled.config.settings import Config
from upscaled.config.table import ENV_PREFIX, SECTIONS, Setting, settings
from upscaled.config.types import from_text, typed
from upscaled.errors import ConfigError

_EMPTY_BEFORE_ENTRIES = re.compile(
    r"^((?P<indent> *)\w+:) *\{\}(?= *(?:#.*)?\n(?:[ \t]*(?:#.*)?\n)*(?P=indent) +[^\s#])",
    re.MULTILINE,
)
"""An empty mapping above lines that are indented deeper, as when a token's line is pasted below
``tokens: {}``. That is never valid YAML, so dropping the braces changes no other file."""


def load(
    file: Path | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    flags: Mapping[str, str] | None = None,
) -> Config:
    """Read the settings.

    Args:
        file: the YAML file; None: no file, and relative paths start at the working directory.
        environ: the environment variables; None: those of this process.
        flags: text values from the command line, by setting name such as ``server.port``.

    Raises:
        ConfigError: one sentence that names the key, the value and what is allowed.
    """
    environ = os.environ if environ is None else environ
    flags = flags or {}
    document = _read_file(file) if file else {}
    values: dict[str, dict[str, object]] = {name: {} for name in SECTIONS}
    known_variables = {"UPSCALED_CONFIG", "UPSCALED_TOKEN"}
    for setting in settings():
        known_variables |= {setting.env} | ({setting.former.env} if setting.former else set())
        given = _given(setting, document.get(setting.section, {}), file, environ, flags)
        if given is None:
            continue
        found, source = given
        values[setting.section][setting.key] = typed(
            setting.name, setting.type, setting.rule, found, source
        )
    for variable in environ:
        if variable.startswith(ENV_PREFIX) and variable not in known_variables:
            raise ConfigError(
                f"There is no setting for the environment variable {variable}; "
                f"the names are {ENV_PREFIX}<SECTION>_<KEY>, with the keys of config.yaml."
            )
    base = file.resolve().parent if file else Path.cwd()
    sections = {name: cls(**values[name]) for name, cls in SECTIONS.items()}
    return Config(base=base, **sections)


def _given(
    setting: Setting,
    section: Mapping[str, object],
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
) -> tuple[object, str] | None:
    """Return a setting's value and where it was found; None: it has its default.

    Raises:
        ConfigError: both of its names are used.
    """
    former = setting.former
    if setting.name in flags:
        return from_text(flags[setting.name], setting.type), str(setting.rule.flag)
    if variable := _name_in(
        environ, setting.env, former.env if former else None, "The environment"
    ):
        return from_text(environ[variable], setting.type), variable
    if key := _name_in(
        section, setting.key, former.key if former else None, f"{file}: {setting.section}"
    ):
        return section[key], str(file)
    return None


def _name_in(
    found: Mapping[str, object], present: str, former: str | None, where: str
) -> str | None:
    """Return the name of a setting in ``found``; None if it is not there."""
    if former is None or former not in found:
        return present if present in found else None
    if present in found:
        raise ConfigError(
            f"{where} has {present} and {former}, which is the former name of the same setting; "
            "delete one of them."
        )
    return former


def _read_file(path: Path) -> Mapping[str, Mapping[str, object]]:
    try:
        text = _EMPTY_BEFORE_ENTRIES.sub(r"\1", path.read_text("utf-8"))
        document: object = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(f"The configuration file {path} does not exist.") from None
    except PermissionError:
        raise ConfigError(
            f"The configuration file {path} may not be read by this user: run the command as "
            "root (sudo), or name another file with --config."
        ) from None
    except OSError as error:
        raise ConfigError(
            f"The configuration file {path} can't be read: {error.strerror}."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f", line {where.line + 1}" if where else ""
        raise ConfigError(f"The configuration file {path}{line} is not valid YAML.") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: expected sections such as `server:`, found {document!r}.")
    for name, section in document.items():
        if name not in SECTIONS:
            raise ConfigError(
                f"{path}: there is no section {name!r}; the sections are {', '.join(SECTIONS)}."
            )
        if section is not None and not isinstance(section, dict):
            raise ConfigError(
                f"{path}: section {name} is {section!r}; it must have keys and values."
            )
        rows = [setting for setting in settings() if setting.section == name]
        keys = [setting.key for setting in rows]
        former = {setting.former.key for setting in rows if setting.former}
        for key in section or {}:
            if key not in keys and key not in former:
                raise ConfigError(
                    f"{path}: there is no key {name}.{key}; the keys are {', '.join(keys)}."
                )
    return {name: section or {} for name, section in document.items()}
