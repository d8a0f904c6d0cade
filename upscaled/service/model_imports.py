"""Imports of models that an administrator sends: one after the other, while jobs run."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import re
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Mapping
from pathlib import Path

from upscaled import files
from upscaled.config.settings import Config
from upscaled.errors import (
    BadRequestError,
    NoSuchModelError,
    QueueFullError,
    UnknownImportError,
    UpscaledError,
    WrongStateError,
)
from upscaled.jobs.job import new_job_id
from upscaled.jobs.workspace import Workspace
from upscaled.models.catalog import ModelCatalog
from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.imported import Imported
from upscaled.models.conversion.request import (
    ImportRequest,
    Words,
    check_commercial,
    check_free,
    checked_name,
)
from upscaled.models.removal import remove_imported
from upscaled.service.import_records import ImportRecords, ImportState, ImportStatus

log = logging.getLogger(__name__)

FIELD_NAMES = ("name", "license", "author", "description", "origin", "activation")
_MOST_WAITING = 4
"""Imports that wait or work; further ones are refused."""
_KEPT = 50
"""Ended imports whose outcome can still be asked for."""
_LONGEST = 500
"""Characters of a field."""
_SIBLING = re.compile(r"-x(?:[1-9]|1[0-6])$")
_ACTIVATIONS = ("relu", "leakyrelu")
_WORDS = Words(
    name="send another one in the field `name`",
    taken="send another name, or delete that model",
    license="name it in the field `license`",
)


class ModelImports:
    """Takes files, converts them one by one, and removes what was imported.

    Args:
        config: the settings.
        models: the catalog.
        workspace: keeps the files until they are converted.
        models_in_use: returns the names of the models that unfinished jobs want.
    """

    def __init__(
        self,
        config: Config,
        models: ModelCatalog,
        workspace: Workspace,
        models_in_use: Callable[[], Collection[str]],
    ) -> None:
        self._config = config
        self._models = models
        self._workspace = workspace
        self._models_in_use = models_in_use
        self._records = ImportRecords(config.data_dir / "imports.json")
        self._all: dict[str, ImportStatus] = {}
        self._ends: dict[str, asyncio.Event] = {}
        self._waiting: deque[tuple[str, ImportRequest]] = deque()
        self._news = asyncio.Event()
        self._turn = asyncio.Lock()
        """Held while files of models change."""

    async def open(self) -> None:
        """Remember the imports of earlier runs."""
        for status in await self._records.load():
            self._all[status.id] = status
            self._ends[status.id] = asyncio.Event()
            self._ends[status.id].set()

    @property
    def busy(self) -> bool:
        """Whether an import waits or works."""
        return any(not one.ended for one in self._all.values())

    def check_room(self) -> None:
        """Refuse early, before a file is received.

        Raises:
            QueueFullError: too many imports wait.
        """
        if sum(not one.ended for one in self._all.values()) >= _MOST_WAITING:
            raise QueueFullError(
                f"{_MOST_WAITING} models are being imported; try again in a minute.",
                headers={"Retry-After": "60"},
            )

    async def begin(
        self, fields: Mapping[str, str], upload: Path, filename: str | None
    ) -> ImportStatus:
        """Take a file and queue its import.

        Args:
            fields: of `FIELD_NAMES`.
            upload: the file; on success it is moved away.
            filename: the sender's name for it.

        Raises:
            BadRequestError: a field cannot be used.
            ConversionError: the name is not allowed or taken, or the licence rules it out.
            QueueFullError: too many imports wait.
        """
        request = self._request(fields, upload, filename)
        name = checked_name(request)
        await self._models.rescan()
        self._check_name(name)
        await asyncio.to_thread(check_free, request, self._config.models_dir, name)
        self.check_room()
        status = ImportStatus(new_job_id(), name)
        self._all[status.id] = status
        self._ends[status.id] = asyncio.Event()
        self._forget_old()
        own = self._workspace.new_upload()
        try:
            await files.in_thread(upload.rename, own)
            await self._records.save(self._all.values())
        except BaseException as error:
            del self._all[status.id], self._ends[status.id]
            await self._workspace.discard(own)
            if isinstance(error, OSError):
                raise UpscaledError(
                    f"The import cannot be recorded in the data folder: {error.strerror}."
                ) from None
            raise
        self._waiting.append((status.id, dataclasses.replace(request, source=own, name=name)))
        self._news.set()
        return status

    def _request(
        self, fields: Mapping[str, str], upload: Path, filename: str | None
    ) -> ImportRequest:
        for name, value in fields.items():
            if len(value) > _LONGEST or not value.isprintable():
                raise BadRequestError(
                    f"The field {name!r} must be a line of up to {_LONGEST} characters."
                )
        if "name" not in fields and not filename:
            raise BadRequestError(
                "The field `name` is missing; send a name for the model, or send the file with its "
                "file name."
            )
        activation = fields.get("activation")
        if activation is not None and activation not in _ACTIVATIONS:
            raise BadRequestError(
                f"activation is {activation[:64]!r}; it must be {' or '.join(_ACTIVATIONS)}."
            )
        request = ImportRequest(
            source=upload,
            name=fields.get("name"),
            license=fields.get("license"),
            author=fields.get("author"),
            description=fields.get("description"),
            origin=fields.get("origin"),
            activation=activation,
            file=filename or fields.get("name"),
            words=_WORDS,
        )
        if self._config.upscaler.commercial_models_only:
            check_commercial(request)
        return request

    def _check_name(self, name: str) -> None:
        """Refuse a name that would hide an offered model, or add a network to another model."""
        family = _SIBLING.sub("", name)
        for model in self._models.models:
            taken = {model.name, *(files.stem for files in model.files.values())}
            if name in taken or (family == model.name and not model.imported):
                raise ConversionError(f"There is a model {model.name} already; {_WORDS.taken}.")

    def get(self, import_id: str) -> ImportStatus:
        """Return an import.

        Raises:
            UnknownImportError: there is none with this id, or it ended long ago.
        """
        try:
            return self._all[import_id]
        except KeyError:
            raise UnknownImportError(
                f"There is no import with this id; the last {_KEPT} are remembered."
            ) from None

    async def wait(self, import_id: str) -> None:
        """Wait for the end of an import; at once if there is none."""
        if (end := self._ends.get(import_id)) is not None:
            await end.wait()

    async def delete(self, name: str) -> None:
        """Delete a model that was imported.

        Raises:
            NoSuchModelError: there is none of this name.
            WrongStateError: it was not imported, it is the default, or a job wants it.
        """
        await self._models.rescan()
        model = next((model for model in self._models.models if model.name == name), None)
        if model is None:
            raise NoSuchModelError(f"There is no model {name[:100]!r}; GET /models lists them.")
        if name == self._config.upscaler.default_model:
            raise WrongStateError(
                f"{name} is the default model; change upscaler.default_model, then delete it."
            )
        if name in self._models_in_use():
            raise WrongStateError(
                f"Jobs that are not finished use {name}; wait for them or cancel them."
            )
        try:
            async with self._turn:
                await asyncio.to_thread(remove_imported, self._config.models_dir, model)
                await self._models.rescan()
        except OSError as error:
            raise UpscaledError(_unwritable(error)) from None
        log.info("model deleted", extra={"model": name})

    async def run(self) -> None:
        """Import what waits; runs until cancelled."""
        while True:
            await self._news.wait()
            self._news.clear()
            while self._waiting:
                import_id, request = self._waiting.popleft()
                try:
                    await self._import(import_id, request)
                    await self._keep()
                finally:
                    await self._workspace.discard(request.source)
                self._ends[import_id].set()  # nothing of it is left, and its end is recorded

    async def _import(self, import_id: str, request: ImportRequest) -> None:
        self._change(import_id, state=ImportState.IMPORTING)
        directory = self._config.models_dir
        try:
            async with self._turn:
                import_model = await asyncio.to_thread(_loaded)
                made = await import_model(
                    request, directory, on_step=lambda step: self._change(import_id, step=step)
                )
                await self._models.rescan()
            offered = self._models.get(made.name).name
        except UpscaledError as error:
            self._fail(import_id, error)
        except OSError as error:
            self._fail(import_id, UpscaledError(_unwritable(error)))
            log.error("an import failed", extra={"folder": str(directory), "reason": str(error)})
        except Exception:
            words = "Something went wrong in the server; its log tells what."
            self._fail(import_id, UpscaledError(words))
            log.exception("an import ended unexpectedly")
        else:
            log.info("model imported", extra={"model": offered, "license": request.license})
            done = ImportState.COMPLETED
            self._change(import_id, state=done, step=None, made=made, offered_as=offered)

    async def _keep(self) -> None:
        try:
            await self._records.save(self._all.values())
        except OSError as error:
            log.error("the end of an import is not recorded", extra={"reason": str(error)})

    def _fail(self, import_id: str, error: UpscaledError) -> None:
        self._change(import_id, state=ImportState.FAILED, step=None, error=error)

    def _change(self, import_id: str, **changes: object) -> None:
        changed = dataclasses.replace(self._all[import_id], **changes)  # type: ignore[arg-type]
        self._all[import_id] = changed

    def _forget_old(self) -> None:
        ended = [one.id for one in self._all.values() if one.ended]
        for import_id in ended[: max(0, len(ended) - _KEPT)]:
            del self._all[import_id], self._ends[import_id]


def _loaded() -> Callable[..., Awaitable[Imported]]:
    """Load what imports models: 25 MB that most servers never need; blocking."""
    from upscaled.models.conversion.importing import import_model  # noqa: PLC0415

    return import_model


def _unwritable(error: OSError) -> str:
    return f"The models folder cannot be written to: {error.strerror}."
