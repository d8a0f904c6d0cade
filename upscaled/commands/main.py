"""The command line: parses arguments, calls the command, prints its outcome.

Exit status: 0 success; 1 failure; 2 a wrong command line or configuration; 130 stopped from the
keyboard; 143 stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from upscaled import __version__, logs
from upscaled.commands import output
from upscaled.commands.models import add_arguments as add_import_arguments
from upscaled.commands.models import (
    add_list_arguments,
    described,
    import_models,
    install_models,
    list_models,
    show_step,
)
from upscaled.commands.upscale_options import add_arguments as add_upscale_arguments
from upscaled.commands.upscale_options import add_watch_arguments
from upscaled.config.settings import Config
from upscaled.config.sources import load
from upscaled.config.table import Setting, settings
from upscaled.errors import BadRequestError, ConfigError, UpscaledError

CONFIG_VARIABLE = "UPSCALED_CONFIG"
SYSTEM_CONFIG = Path("/etc/upscaled/config.yaml")
"""Settings of the installed service; ``scripts/install-service`` writes them."""

_PATH_SETTINGS = frozenset({"storage.data_dir", "upscaler.models_path", "upscaler.binary_path"})

Command = Callable[[argparse.Namespace, Config], Coroutine[Any, Any, int]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line ``arguments``, the process's own by default; return the status."""
    options = _parser().parse_args(arguments)
    command: Command = options.command
    output.prepare(sys.stdout, json=getattr(options, "json", False))
    try:
        config = load(config_file(options.config), flags=_flags(options))
        logs.configure(
            config.logging
            if options.logs_all
            else dataclasses.replace(config.logging, level="error")
        )
        status = asyncio.run(_run(command, options, config))
        output.flush(sys.stdout)  # or a closed pipe would be noticed only when Python exits
        return status
    except (ConfigError, BadRequestError) as error:
        _complain(error.message)
        return 2
    except UpscaledError as error:
        _complain(error.message)
        output.discard_rest(sys.stdout)
        return 1
    except BrokenPipeError:  # the reader closed the pipe: `upscaled doctor | head`
        output.discard_rest(sys.stdout)
        return 1
    except KeyboardInterrupt:
        return 130


def _complain(sentence: str) -> None:
    """Print why the command ends, as an error where standard error is the journal."""
    priority = logs.priority_prefix(logging.ERROR) if logs.goes_to_journal(sys.stderr) else ""
    print(f"{priority}upscaled: {sentence}", file=sys.stderr)


async def _run(command: Command, options: argparse.Namespace, config: Config) -> int:
    """Run a command; SIGTERM cancels it, as Ctrl-C does, so that it cleans up."""
    work = asyncio.create_task(command(options, config), name="command")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, work.cancel)
    try:
        return await work
    except asyncio.CancelledError:
        this = asyncio.current_task()
        if this is not None and this.cancelling():  # from the keyboard
            raise
        return 128 + signal.SIGTERM


def config_file(named: str | None) -> Path | None:
    """Return the configuration file to read.

    The one ``--config`` names, else the one the environment names, else ``config.yaml`` in the
    working directory, else the checkout's own, else the installed service's, else none.
    """
    explicit = named or os.environ.get(CONFIG_VARIABLE)
    if explicit:
        return Path(explicit).expanduser()
    checkout = Path(__file__).resolve().parents[2]
    candidates = (Path.cwd() / "config.yaml", checkout / "config.yaml", SYSTEM_CONFIG)
    return next((path for path in candidates if path.is_file()), None)


def _flags(options: argparse.Namespace) -> dict[str, str]:
    """Return the settings given as flags, by name; paths start at the working directory."""
    given = {}
    for setting in _flagged():
        value = getattr(options, setting.name, None)
        if value is not None:
            is_path = setting.name in _PATH_SETTINGS
            given[setting.name] = str(Path(value).expanduser().absolute()) if is_path else value
    return given


def _flagged() -> list[Setting]:
    return [setting for setting in settings() if setting.rule.flag]


# --- the commands -------------------------------------------------------------------------------
# Each imports its own modules, so that `--version` does not wait for large libraries.


async def _serve(options: argparse.Namespace, config: Config) -> int:
    from upscaled.server.serve import serve  # noqa: PLC0415

    def ready(url: str) -> None:
        api = url + config.server.api_prefix
        token = (
            ' -H "X-Auth-Token: $TOKEN"' if config.server.auth_token or config.server.tokens else ""
        )
        print(f"Listening on {url}")
        print("Try these commands with your own picture and the job_id from the first answer:")
        print(f"  curl{token} -F image=@photo.jpg {api}/upscale")
        print(f"  curl{token} {api}/status/JOB_ID")
        print(f"  curl{token} -OJ {api}/download/JOB_ID", flush=True)

    await serve(config, ready, works=options.work)
    return 0


async def _work(_options: argparse.Namespace, config: Config) -> int:
    from upscaled.server.work import work  # noqa: PLC0415

    def ready(name: str) -> None:
        print(f"Doing jobs of the cluster as {name}", flush=True)

    await work(config, ready)
    return 0


async def _cluster_status(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.cluster import show_status  # noqa: PLC0415

    return await show_status(config, as_json=options.json)


async def _cluster_drain(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.cluster import drain  # noqa: PLC0415

    return await drain(config, options.worker)


async def _cluster_import(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.cluster import import_folder  # noqa: PLC0415

    return await import_folder(config, _named_folder(options.source, config))


async def _cluster_export(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.cluster import export_folder  # noqa: PLC0415

    return await export_folder(config, _named_folder(options.to, config))


async def _cluster_grant(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.cluster import grant  # noqa: PLC0415

    return await grant(config, options.servers, options.workers)


def _named_folder(named: str | None, config: Config) -> Path:
    return Path(named).expanduser().absolute() if named else config.data_dir


async def _upscale(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.upscale import upscale  # noqa: PLC0415

    return await upscale(options, config)


async def _watch(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.watch import watch  # noqa: PLC0415

    return await watch(options, config)


async def _doctor(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.doctor import as_text, examine  # noqa: PLC0415

    report = await examine(config)
    print(json.dumps(dataclasses.asdict(report)) if options.json else as_text(report))
    return 1 if report.problems else 0


async def _bench(options: argparse.Namespace, config: Config) -> int:
    from upscaled.commands.bench import bench  # noqa: PLC0415

    return await bench(options, config)


async def _setup(options: argparse.Namespace, config: Config) -> int:
    if options.photo_fast:
        from upscaled.commands.photo_fast import install_photo_fast  # noqa: PLC0415

        made = await install_photo_fast(config.models_dir, replace=options.force, on_step=show_step)
        print(described(made))
        print(f"Use it with model_name={made.name}, or make it upscaler.default_model.")
    if options.binary:
        from upscaled.commands.setup import fetch  # noqa: PLC0415

        print(f"The native program is {await fetch(config.path('bin'))}.")
    if not (options.binary or options.photo_fast):
        raise BadRequestError("Name what to set up; type: upscaled setup --binary, or --photo-fast")
    return 0


async def _token(options: argparse.Namespace, _config: Config) -> int:
    from upscaled.callers import hash_of, new_token  # noqa: PLC0415
    from upscaled.config.types import tokens  # noqa: PLC0415

    token = new_token()
    pair = (options.name, hash_of(token))
    if complaint := tokens((pair,)):
        raise BadRequestError(f"The name is {options.name!r}; it must be {complaint}.")
    print(f"The token, which is shown only now: {token}")
    print("Add this line to config.yaml, below `tokens:` in the section `server:`")
    print(f"    {pair[0]}: {pair[1]}")
    return 0


async def _completion(options: argparse.Namespace, _config: Config) -> int:
    from upscaled.commands.completion import script  # noqa: PLC0415

    print(script(_parser(), options.shell), end="")
    return 0


# --- the parser ---------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("upscaled", description="Enlarge pictures with Real-ESRGAN.")
    parser.add_argument("--version", action="version", version=f"upscaled {__version__}")
    parser.set_defaults(config=None)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    serve = _command(commands, "serve", _serve, "Run the server.", logs_all=True)
    _add_settings(serve, _flagged())
    serve.add_argument(
        "--work", action="store_true", help="in a cluster: do jobs too, not only answer requests"
    )
    _add_cluster_commands(commands)

    add_upscale_arguments(
        _command(commands, "upscale", _upscale, "Enlarge pictures and folders of pictures.")
    )
    add_watch_arguments(
        _command(commands, "watch", _watch, "Enlarge the new pictures of a folder.")
    )

    models = _command(commands, "models", list_models, "List, install or import models.")
    actions = models.add_subparsers(title="actions", metavar="ACTION")
    add_list_arguments(models)
    add_list_arguments(
        _command(actions, "list", list_models, "List the models (also without an action).")
    )
    install = _command(actions, "install", install_models, "Install a pack of models.")
    install.add_argument(
        "pack",
        nargs="?",
        default="official",
        metavar="PACK",
        help="official (the default), realsr, span, waifu2x or realcugan",
    )
    install.add_argument(
        "--force", action="store_true", help="replace files that differ from the pack's"
    )
    install.add_argument(
        "--quiet", action="store_true", help="print nothing if all models are installed"
    )
    add_import_arguments(
        _command(actions, "import", import_models, "Convert a published model and check it.")
    )

    doctor = _command(commands, "doctor", _doctor, "Check whether this machine can upscale.")
    doctor.add_argument("--json", action="store_true", help="print the report as JSON")

    bench = _command(
        commands, "bench", _bench, "Measure how networks run quickest on this processor."
    )
    bench.add_argument("model", nargs="*", metavar="MODEL", help="models; all without a name")
    bench.add_argument("--again", action="store_true", help="also measure what was measured before")
    bench.add_argument("--json", action="store_true", help="print the tables as JSON")

    token = _command(commands, "token", _token, "Make a token for one caller.")
    token.add_argument("name", metavar="NAME", help="the caller's name: letters, digits, . _ -")

    setup = _command(commands, "setup", _setup, "Download optional parts.")
    setup.add_argument(
        "--binary", action="store_true", help="download the native program into bin/"
    )
    setup.add_argument(
        "--photo-fast",
        action="store_true",
        help="download the official small network for photos, and convert it",
    )
    setup.add_argument("--force", action="store_true", help="replace a model of the same name")

    completion = _command(
        commands, "completion", _completion, "Print the completion script of a shell."
    )
    completion.add_argument("shell", choices=("bash", "zsh", "fish"))
    return parser


def _add_settings(parser: argparse.ArgumentParser, chosen: list[Setting]) -> None:
    for setting in chosen:
        rule = setting.rule
        parser.add_argument(
            str(rule.flag),
            dest=setting.name,
            metavar="|".join(rule.choices) or setting.key.upper(),
            help=f"{rule.help} (default: {setting.default})".replace("%", "%%"),
        )


def _add_cluster_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    work = _command(commands, "work", _work, "Do the jobs of a cluster.", logs_all=True)
    _add_settings(work, [one for one in _flagged() if one.section != "server"])
    status = "Show the members and the queue of a cluster."
    cluster = _command(commands, "cluster", _cluster_status, "Show and manage a cluster.")
    actions = cluster.add_subparsers(title="actions", metavar="ACTION")
    for parser in (cluster, _command(actions, "status", _cluster_status, status)):
        parser.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print it as JSON"
        )
    cluster.set_defaults(json=False)
    drain = _command(
        actions, "drain", _cluster_drain, "Let a worker finish its jobs, take no more, and end."
    )
    drain.add_argument("worker", metavar="WORKER", help="its name, as `cluster status` shows it")
    sentence = "Move the jobs of one machine into the cluster; its server must not run."
    source = _command(actions, "import", _cluster_import, sentence)
    source.add_argument(
        "--from", dest="source", metavar="FOLDER",
        help="the data folder of the one machine (default: storage.data_dir)",
    )  # fmt: skip
    sentence = "Move all jobs of a cluster to one machine; no member may run."
    target = _command(actions, "export", _cluster_export, sentence)
    target.add_argument(
        "--to", metavar="FOLDER", help="the data folder to create (default: storage.data_dir)"
    )
    sentence = "Give roles of the database the rights of API servers and of workers, and no others."
    rights = _command(actions, "grant", _cluster_grant, sentence)
    for name in ("servers", "workers"):
        rights.add_argument(f"--{name}", metavar="ROLE", required=True, help=f"that of {name}")


def _command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Command,
    help_: str,
    *,
    logs_all: bool = False,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help_, description=help_)
    # No default, or an action's would override the value that its command was given.
    parser.add_argument(
        "--config", metavar="FILE", default=argparse.SUPPRESS, help="the configuration file"
    )
    # Commands that print their outcome log only errors; a server logs what its settings say.
    parser.set_defaults(command=run, logs_all=logs_all)
    return parser
