"""The receiver that a submission names: its address, and the events that it gets."""

from __future__ import annotations

from upscaled.config.settings import Config
from upscaled.errors import BadRequestError, OutboxFullError
from upscaled.jobs.job import Callback
from upscaled.jobs.store import JobStore
from upscaled.outgoing.client import OutgoingClient
from upscaled.outgoing.errors import AddressRefusedError
from upscaled.webhooks.events import EVENTS, USUAL_EVENTS

_CHECK_SECONDS = 3.0
"""For the name of the receiver. Each message is checked again, so a slow answer may come later."""
_RETRY_AFTER = "300"


def parse_events(text: str | None) -> tuple[str, ...]:
    """Return the events that ``callback_events`` names; None: the usual ones.

    Raises:
        BadRequestError: there is none by that name.
    """
    if text is None:
        return USUAL_EVENTS
    wanted = [name.strip() for name in text.split(",")]
    for name in wanted:
        if name not in EVENTS:
            raise BadRequestError(
                f"The field callback_events has {name[:64]!r}; it can have {', '.join(EVENTS)}, "
                "separated by commas."
            )
    return tuple(name for name in EVENTS if name in wanted)


class Callbacks:
    """Accepts the receivers that submissions name.

    Args:
        config: the settings.
        client: makes the requests.
        store: has the outbox.
    """

    def __init__(self, config: Config, client: OutgoingClient, store: JobStore) -> None:
        self._enabled = config.features.webhooks
        self._most = config.webhooks.max_pending
        self._client = client
        self._store = store

    async def accept(
        self, url: str | None, events: str | None, *, owner: str, links_base: str
    ) -> Callback | None:
        """Return the receiver of a job; None if the submission names none.

        Args:
            url: the field ``callback_url``.
            events: the field ``callback_events``.
            owner: of the job.
            links_base: what the links in messages start with.

        Raises:
            BadRequestError: the address is not allowed, or the fields are wrong.
            OutboxFullError: too many of the owner's messages are not delivered.
        """
        if url is None:
            if events is not None:
                raise BadRequestError("The field callback_events needs callback_url.")
            return None
        names = parse_events(events)
        if not self._enabled:
            raise BadRequestError("This server does not send webhooks (features.webhooks is off).")
        try:
            await self._client.check(url, _CHECK_SECONDS)
        except AddressRefusedError as error:
            raise BadRequestError(f"The callback_url can't be used. {error}") from None
        if await self._store.count_pending(owner) >= self._most:
            raise OutboxFullError(
                f"{self._most} messages of your jobs are not delivered yet, which is the limit; "
                "check why your receiver does not accept them, or leave callback_url out.",
                headers={"Retry-After": _RETRY_AFTER},
            )
        return Callback(url, names, links_base)
