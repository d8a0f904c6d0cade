"""The server process: listens, serves until it is told to stop, stops cleanly."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

from aiohttp import web

from upscaled.api.app import make_app
from upscaled.api.connections import Connections
from upscaled.api.context import CONNECTIONS, METRICS
from upscaled.api.metrics import make_metrics_app
from upscaled.config.settings import Config, warnings
from upscaled.errors import ConfigError, UpscaledError
from upscaled.metrics.metrics import Metrics
from upscaled.server import open_files, process_limits, room, sd_notify
from upscaled.server.accept_errors import AcceptErrors
from upscaled.server.roles import make_service
from upscaled.server.starting import started
from upscaled.server.stop import Stop
from upscaled.service.service import Service

log = logging.getLogger(__name__)

# How long connections may stay open after a stop was requested; idle ones close immediately.
_CONNECTIONS_END_SECONDS = 10.0
_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted in one go, before those beyond the limit are refused."""
_BACKLOG = 1024
"""Connections that wait to be accepted; of those beyond, each would try again after a second."""
_METRICS_READERS = 64
"""Connections that may be open on ``metrics.port``."""


async def serve(config: Config, on_ready: Callable[[str], None], *, works: bool = False) -> None:
    """Serve until SIGTERM or SIGINT; a second one ends the wait for running jobs.

    Args:
        config: the settings.
        works: an API server of a cluster does jobs too.
        on_ready: called with the server's URL, without a path, when it answers requests.

    Raises:
        ConfigError: something the settings demand is not there.
        UpscaledError: the address can't be listened on.
        StoreUnavailableError: a cluster's database or blobs don't answer for minutes.
    """
    for sentence in await asyncio.to_thread(_warnings, config):
        log.warning(sentence)
    stop = Stop()
    stop.listen()
    loop = asyncio.get_running_loop()
    # The address first: a second server must not continue the first one's jobs.
    listeners = await _listeners(config.server.host, config.server.port)
    try:
        fitted = _fitted(config)
        loop.set_exception_handler(AcceptErrors())
        service = await started(lambda: make_service(fitted, works=works), stop)
        if service is not None:
            try:
                await _answer(config, service, listeners, stop, on_ready)
            finally:
                await service.stop()
    finally:
        for listener in listeners:
            listener.close()
        stop.ignore()


def _warnings(config: Config) -> list[str]:
    """Return sentences about settings and limits with which some requests can't be served."""
    too_few = open_files.make_room(config.server.max_connections)
    return [
        *warnings(config),
        *filter(None, [too_few]),
        *process_limits.complaints(config),
        *room.complaints(config),
    ]


def _fitted(config: Config) -> Config:
    """Return the settings with as many connections as this process may have."""
    most = open_files.connections_that_fit(config.server.max_connections)
    return replace(config, server=replace(config.server, max_connections=most))


async def _answer(
    config: Config,
    service: Service,
    listeners: list[socket.socket],
    stop: Stop,
    on_ready: Callable[[str], None],
) -> None:
    """Answer requests until the stop is asked for and running jobs have had their time."""
    service.watch_health()
    app = make_app(service)
    runner = web.AppRunner(app, shutdown_timeout=_CONNECTIONS_END_SECONDS)
    await runner.setup()
    sites: list[asyncio.Server] = []
    closing = AsyncExitStack()
    await closing.enter_async_context(_metrics_port(config, app[METRICS]))
    cut_off = asyncio.create_task(_cut_off(app[CONNECTIONS], stop), name="cut off")
    try:
        assert runner.server is not None  # noqa: S101 - it is set up
        factory = app[CONNECTIONS].factory(
            runner.server,
            access_log=logging.getLogger("aiohttp.access") if config.logging.access else None,
        )
        for listener in listeners:
            site = await asyncio.get_running_loop().create_server(
                factory, sock=listener, backlog=_ACCEPTED_AT_ONCE
            )
            sites.append(site)
            listener.listen(_BACKLOG)
        # What there is now stays: looking through it for garbage again and again took an
        # eighth of the server's time for small pictures.
        gc.collect()
        gc.freeze()
        on_ready(_url(config.server.host, listeners[0].getsockname()[1]))
        supervised = asyncio.create_task(_supervised(service), name="supervised")
        try:
            await stop.asked.wait()
            sd_notify.notify("STOPPING=1", "STATUS=Letting running jobs finish.")
            log.info(_farewell(service.jobs_running, config.server.drain_seconds))
            # Until running jobs have ended, callers still get their status.
            await service.drain(stop.at_once)
        finally:
            supervised.cancel()
            await asyncio.wait([supervised])
    finally:
        for site in sites:
            site.close()
        await closing.aclose()
        await runner.cleanup()
        cut_off.cancel()


@asynccontextmanager
async def _metrics_port(config: Config, metrics: Metrics | None) -> AsyncGenerator[None]:
    """Serve metrics on a port of their own meanwhile, if the settings say so.

    Raises:
        UpscaledError: the address can't be listened on.
    """
    chosen = config.metrics
    if metrics is None or not chosen.port:
        yield
        return
    runner = web.AppRunner(make_metrics_app(metrics, chosen.token), shutdown_timeout=1)
    await runner.setup()
    try:
        assert runner.server is not None  # noqa: S101 - it is set up
        connections = Connections(
            _METRICS_READERS,
            config.server.header_timeout_seconds,
            config.server.send_timeout_seconds,
        )
        try:
            site = await asyncio.get_running_loop().create_server(
                connections.factory(runner.server), chosen.host, chosen.port
            )
        except OSError as error:
            raise UpscaledError(
                f"Port {chosen.port} of {chosen.host} can't be listened on: {error.strerror}. Stop "
                "what uses it, or set another metrics.port."
            ) from None
        try:
            yield
        finally:
            site.close()
    finally:
        await runner.cleanup()


async def _cut_off(connections: Connections, stop: Stop) -> None:
    """End all connections when the stop is wanted at once."""
    await stop.at_once.wait()
    log.info("Stopping at once; unfinished jobs go on at the next start.")
    connections.abort()


def _farewell(running: int, drain_seconds: float) -> str:
    """Return what the stop waits for, for how long, and how to end that wait."""
    if not running or not drain_seconds:
        return "Stopping."
    jobs = "1 running job" if running == 1 else f"{running} running jobs"
    return (
        f"Stopping: waiting up to {drain_seconds:g} s for {jobs}. A second Ctrl-C stops at "
        "once; unfinished jobs go on at the next start."
    )


async def _supervised(service: Service) -> None:
    """Tell systemd that the service is ready, its health, and that it is alive.

    systemd restarts the service when this event loop, or the task that feeds jobs to the
    devices, has stopped.
    """
    sd_notify.notify("READY=1", "STATUS=Listening; the self-test is running.")
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_tell_health(service), name="told health")
        if (seconds := sd_notify.watchdog_seconds()) is not None:
            tasks.create_task(_tell_life(service, seconds / 2), name="told life")


async def _tell_health(service: Service) -> None:
    state = await service.health_known()
    sd_notify.notify(f"STATUS=Listening; health after the self-test: {state}.")


async def _tell_life(service: Service, period: float) -> None:
    while True:
        if service.alive:
            sd_notify.notify("WATCHDOG=1")
        await asyncio.sleep(period)


async def _listeners(host: str, port: int) -> list[socket.socket]:
    """Bind a socket for every address of ``host``, all to the same port."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ConfigError(
            f"server.host is {host!r}, which is no address of this machine: {error.strerror}."
        ) from None
    listeners: list[socket.socket] = []
    refused: OSError | None = None
    for family, _, _, _, address in dict.fromkeys(found):
        # Port 0 is a free one, found by the first and shared by the rest.
        shared = listeners[0].getsockname()[1] if listeners else port
        try:
            listeners.append(_listener(family, (address[0], shared, *address[2:])))
        except OSError as error:
            refused = error
            # A machine without IPv6 may still name ::1 for localhost; the rest will do.
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                break
    else:
        if listeners:
            return listeners
    for listener in listeners:
        listener.close()
    raise UpscaledError(
        f"Port {port} of {host} can't be listened on: {refused.strerror if refused else host}. "
        "Stop what uses it, or choose another with --port (server.port) or --host (server.host)."
    )


def _listener(family: int, address: tuple[object, ...]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Or :: would take the IPv4 port too, and a second bind to it fail.
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        # Claimed by listening: two sockets with SO_REUSEADDR may be bound to one port.
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _url(host: str, port: int) -> str:
    """Return the URL to type on this machine for what listens on ``host``."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)  # noqa: S104
    if ":" in shown and not shown.startswith("["):
        shown = f"[{shown}]"
    return f"http://{shown}:{port}"
