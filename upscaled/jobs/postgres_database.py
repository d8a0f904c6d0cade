"""`Database`: a pool of connections to PostgreSQL that outlives restarts of the server."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
import psycopg_pool

from upscaled.errors import ConfigError, NoSpaceError, StoreUnavailableError

log = logging.getLogger(__name__)

T = TypeVar("T")
Connection = psycopg.AsyncConnection[tuple[Any, ...]]
Work = Callable[[Connection], Awaitable[T]]

PATIENCE_SECONDS = 15.0
"""How long a call waits for a database that restarts; a standby takes over within this time."""
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 1.0
_RETRY_AFTER = "5"
_TRANSIENT = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,  # a primary that has become a standby
    psycopg_pool.PoolTimeout,
)
_FULL = (psycopg.errors.DiskFull, psycopg.errors.ConfigurationLimitExceeded)


_IDLE_SECONDS = 20
"""How long the server waits for the next statement of a transaction."""
_ANSWER_SECONDS = 10.0
"""How long a transaction may take. A server that is stopped, or one behind a cut line, leaves its
connections open; the driver then tries for 10 s to cancel what runs."""
LONG_SECONDS = 120.0
"""The same for changes of the schema and other rare work."""
_NOTICED = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
"""An unreachable server is noticed after 15 s at most."""


class Database:
    """Runs transactions, again if the connection breaks.

    Args:
        url: a connection string of libpq, which may name several hosts.
        size: the most connections.
        patience: seconds for which a transaction is tried.
    """

    def __init__(self, url: str, *, size: int = 8, patience: float = PATIENCE_SECONDS) -> None:
        self.url = url
        self._size = size
        self._patience = patience
        self._pool: psycopg_pool.AsyncConnectionPool[Connection] | None = None
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def open(self) -> None:
        """Connect.

        Raises:
            ConfigError: the URL is wrong, or the server refuses the connection.
            StoreUnavailableError: it does not answer.
        """
        await self._connect_once()
        self._pool = psycopg_pool.AsyncConnectionPool(
            self.url,
            min_size=1,
            max_size=self._size,
            open=False,
            kwargs=dict(_NOTICED),
            configure=_configure,
            # A broken pool gives up soon; the next caller makes it try again.
            reconnect_timeout=2.0,
            name="upscaled",
        )
        await self._pool.open()

    async def _connect_once(self) -> None:
        """Tell a wrong URL from a server that starts."""
        deadline = asyncio.get_running_loop().time() + self._patience
        while True:
            try:
                connection = await psycopg.AsyncConnection.connect(self.url, connect_timeout=5)
            except psycopg.ProgrammingError as error:
                raise ConfigError(f"cluster.database_url can't be read: {_said(error)}.") from None
            except psycopg.OperationalError as error:
                if any(words in str(error) for words in _REFUSALS):
                    raise ConfigError(
                        f"The database refuses the connection: {_said(error)}."
                    ) from None
                if asyncio.get_running_loop().time() > deadline:
                    raise _unavailable(error) from None
                await asyncio.sleep(_LONGEST_PAUSE / 2)
            else:
                await connection.close()
                return

    async def close(self) -> None:
        """Wait for the transactions that run, then disconnect."""
        await self._idle.wait()
        if self._pool is not None:
            await self._pool.close()
            self._pool = None

    @property
    def pool(self) -> psycopg_pool.AsyncConnectionPool[Connection]:
        """The pool; there is one between `open` and `close`."""
        assert self._pool is not None, "the database was not opened"  # noqa: S101
        return self._pool

    async def run(
        self,
        work: Work[T],
        *,
        patience: float | None = None,
        seconds: float = _ANSWER_SECONDS,
    ) -> T:
        """Run ``work`` in a transaction and return its value.

        If the connection breaks or the server falls silent, it is run again. So it may run after it
        was committed, and must have the same effect then.

        Args:
            work: what is done with the connection.
            patience: seconds for which it is tried; None: those of the database.
            seconds: for one try.

        Raises:
            StoreUnavailableError: the server does not answer.
            NoSpaceError: its disk is full.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._patience if patience is None else patience)
        pause = _FIRST_PAUSE
        self._running += 1
        self._idle.clear()
        try:
            while True:
                try:
                    left = max(0.1, deadline - loop.time())
                    async with asyncio.timeout(left + seconds) as scope:
                        async with self.pool.connection(left) as connection:
                            scope.reschedule(loop.time() + seconds)
                            return await work(connection)
                except _FULL as error:
                    raise NoSpaceError(
                        f"The database can't store more now ({_said(error)}); try again in a "
                        "minute.",
                        headers={"Retry-After": "60"},
                    ) from error
                except (*_TRANSIENT, TimeoutError) as error:
                    if isinstance(error, TimeoutError) and not scope.expired():
                        raise  # of ``work`` itself
                    if loop.time() + pause > deadline:
                        raise _unavailable(error) from error
                    await asyncio.sleep(pause)
                    pause = min(2 * pause, _LONGEST_PAUSE)
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()


async def _configure(connection: Connection) -> None:
    """Let the server end a transaction whose client was cut off, since it holds locks."""
    await connection.execute(
        "SELECT set_config('idle_in_transaction_session_timeout', %s, false)",
        (f"{_IDLE_SECONDS}s",),
    )
    await connection.commit()


_REFUSALS = ("authentication failed", "does not exist", "no pg_hba.conf entry", "permission denied")
"""libpq reports a refused connection only as text."""


def _said(error: Exception) -> str:
    """Return the first line of what the server said."""
    if isinstance(error, TimeoutError):
        return "a transaction has no answer"
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def _unavailable(error: Exception) -> StoreUnavailableError:
    log.error("the database does not answer", extra={"reason": _said(error)})
    return StoreUnavailableError(
        f"The server's database does not answer now; try again in {_RETRY_AFTER} s.",
        headers={"Retry-After": _RETRY_AFTER},
    )
