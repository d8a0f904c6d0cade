"""The models in ``models/``: every pair of files, measured, by model name."""

from __future__ import annotations

import asyncio
import logging
import math
import re
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from upscaled.config.settings import Config
from upscaled.engines.builtin.protocol import Findings, NetworkFiles
from upscaled.engines.engine import ModelFiles
from upscaled.engines.param_file import ParamError, read_blob_names
from upscaled.errors import UnknownModelError
from upscaled.models import inspector
from upscaled.models.card import (
    OFFICIAL_CARDS,
    UNKNOWN_LICENSE,
    ModelCard,
    card_path,
    merged,
    read_card,
)
from upscaled.models.findings_cache import FindingsCache
from upscaled.models.inspector import UnusableModelError
from upscaled.models.official import official_findings

log = logging.getLogger(__name__)

Inspect = Callable[[NetworkFiles], Awaitable[Findings]]

_COMMERCIAL_ONLY = (
    "which is not known to allow commercial use (--commercial-only, "
    "upscaler.commercial_models_only). If it does, name it as an SPDX identifier in {card}, or "
    "write commercial_use: true there."
)
_AGAIN_SECONDS = 60.0
"""Seconds before a model that failed for a temporary reason is measured again."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")
_SIBLING = re.compile(r"(?P<family>.+)-x(?:[1-9]|1[0-6])")


@dataclass(frozen=True)
class Model:
    """A name with its native scales, and the files of each."""

    name: str
    description: str
    files: Mapping[int, ModelFiles]
    """By native scale, smallest first."""
    card: ModelCard = field(default_factory=ModelCard)
    licenses: Mapping[int, str | None] = field(default_factory=dict)
    """Of each network, where they are known one by one."""

    def license_of(self, files: ModelFiles) -> str | None:
        """Return the licence of one network; None where it is unknown."""
        return self.licenses.get(files.native_scale, self.card.license)

    @property
    def imported(self) -> bool:
        """Whether it was imported from a published file."""
        return self.card.original_sha256 is not None

    @property
    def supported_scales(self) -> tuple[int, ...]:
        """The native scales, ascending."""
        return tuple(self.files)

    def files_for(self, scale: float) -> ModelFiles:
        """Return the network to use for ``scale``: its own, else the next larger, else the largest.

        A larger scale's output is then reduced, which keeps more detail than enlarging a smaller
        one's.
        """
        larger = [native for native in self.files if native >= scale]
        return self.files[min(larger) if larger else max(self.files)]


@dataclass(frozen=True)
class Rejected:
    """A file that is not offered: its name, and the reason as a sentence."""

    name: str
    reason: str


@dataclass(frozen=True)
class _Stamp:
    """Identifies one state of a file."""

    size: int
    mtime_ns: int


_Snapshot = Mapping[str, _Stamp]


class ModelCatalog:
    """Knows the models in a folder. Empty until the first `rescan`.

    Args:
        models_dir: the folder; it may be created later.
        inspect: measures one network; raises `UnusableModelError`.
        cache_file: where measurements are kept across restarts; None: nowhere.
        commercial_only: offer only models whose licence is known to allow commercial use.
    """

    def __init__(
        self,
        models_dir: Path,
        *,
        inspect: Inspect = inspector.inspect,
        cache_file: Path | None = None,
        commercial_only: bool = False,
    ) -> None:
        self._dir = models_dir
        self._commercial_only = commercial_only
        self._inspect = inspect
        self._cache = FindingsCache(cache_file)
        self._seen: _Snapshot | None = None
        self._again_at = math.inf
        self._models: dict[str, Model] = {}
        self._aliases: dict[str, str] = {}
        self._rejected: tuple[Rejected, ...] = ()
        self._turn = asyncio.Lock()

    @classmethod
    def of(cls, config: Config, *, commercial_only: bool = False) -> ModelCatalog:
        """Return the catalog that settings ask for, or a stricter one."""
        return cls(
            config.models_dir,
            cache_file=config.models_cache,
            commercial_only=commercial_only or config.upscaler.commercial_models_only,
        )

    @property
    def models(self) -> tuple[Model, ...]:
        """The usable models, sorted by name."""
        return tuple(self._models.values())

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        """The files that the last scan rejected, and why."""
        return self._rejected

    def get(self, name: str) -> Model:
        """Return the model of this name, or of a file's full stem.

        Raises:
            UnknownModelError: there is none; the message lists the installed models.
        """
        model = self._models.get(self._aliases.get(name, name))
        if model is None:
            there = ", ".join(self._models) or "none; `upscaled models install` brings some"
            raise UnknownModelError(f"There is no model {name!r}; installed are: {there}.")
        return model

    async def rescan(self) -> None:
        """Scan the folder again; measure only files that are new or changed.

        Unusable files are logged once and listed in `rejected`.
        """
        async with self._turn:
            snapshot = await asyncio.to_thread(_snapshot, self._dir)
            if snapshot == self._seen and time.monotonic() < self._again_at:
                return
            await self._cache.load()
            rejected: list[Rejected] = []
            usable: dict[str, ModelFiles] = {}
            keys: set[str] = set()
            passing = False
            for stem in sorted({Path(name).stem for name in snapshot if _is_network(name)}):
                try:
                    key = _key(self._dir, stem, snapshot)
                    keys.add(key)
                    usable[stem] = await self._measured(stem, key)
                except UnusableModelError as error:
                    passing |= not error.lasting
                    param = f"{stem}.param"
                    name = param if param in snapshot else f"{stem}.bin"
                    rejected.append(Rejected(name, str(error)))
            await self._cache.keep(keys)
            families, aliases = _families(usable, rejected)
            cards = await self._cards({*families, *aliases}, snapshot, rejected)
            models: dict[str, Model] = {}
            for name, members in families.items():
                own = _own_cards(name, members, cards)
                offered = self._allowed(name, members, own, rejected)
                if offered:
                    models[name] = _model(name, offered, own, cards.get(name))
            aliases = {
                stem: name
                for stem, name in aliases.items()
                if name in models and stem in {one.stem for one in models[name].files.values()}
            }
            for item in rejected:
                if item not in self._rejected:
                    log.warning("Model file %s is left out: %s", item.name, item.reason)
            self._models, self._aliases = models, aliases
            self._rejected = tuple(rejected)
            # After a temporary failure the model is measured again, but not on every call.
            self._seen = snapshot
            self._again_at = time.monotonic() + _AGAIN_SECONDS if passing else math.inf

    async def _cards(
        self, names: Collection[str], snapshot: _Snapshot, rejected: list[Rejected]
    ) -> dict[str, ModelCard]:
        """Return the cards in the folder that have one of these names."""
        found: dict[str, ModelCard] = {}
        for name in sorted(names):
            path = card_path(self._dir, name)
            if path.name not in snapshot:
                continue
            try:
                card = await asyncio.to_thread(read_card, path)
            except OSError as error:
                rejected.append(Rejected(path.name, f"It can't be read: {error.strerror}."))
            except ValueError as error:
                rejected.append(Rejected(path.name, f"{error}; the model is offered without it."))
            else:
                if card is not None:
                    found[name] = card
        return found

    def _allowed(
        self,
        name: str,
        members: Mapping[int, ModelFiles],
        own: Mapping[int, ModelCard],
        rejected: list[Rejected],
    ) -> dict[int, ModelFiles]:
        """Return the networks that may be offered, by their licences."""
        if not self._commercial_only:
            return dict(members)
        allowed = {scale: files for scale, files in members.items() if own[scale].commercial}
        left_out = [scale for scale in members if scale not in allowed]
        together = not allowed and len({own[scale] for scale in left_out}) == 1
        for scale in left_out[:1] if together else left_out:
            stem = name if together else members[scale].stem
            licence = own[scale].license or UNKNOWN_LICENSE
            why = _COMMERCIAL_ONLY.format(card=f"{stem}.yaml")
            rejected.append(Rejected(stem, f"Its licence is {licence}, {why}"))
        return allowed

    async def _measured(self, stem: str, key: str) -> ModelFiles:
        param, weights = self._dir / f"{stem}.param", self._dir / f"{stem}.bin"
        try:
            blobs = await asyncio.to_thread(read_blob_names, param)
        except ParamError as error:
            raise UnusableModelError(
                f"{param.name} can't be used: {error}.", lasting=True
            ) from None
        known = self._cache.get(key)
        if known is None:
            files = NetworkFiles(param, weights, blobs.input, blobs.output)
            try:
                known = await self._official(files) or await self._inspect(files)
            except UnusableModelError as error:
                if error.lasting:
                    self._cache.put(key, str(error))
                raise
            self._cache.put(key, known)
        if isinstance(known, str):
            raise UnusableModelError(known, lasting=True)
        return ModelFiles(
            param=param,
            bin=weights,
            native_scale=known.native_scale,
            input_blob=blobs.input,
            output_blob=blobs.output,
            bytes_per_pixel=known.bytes_per_pixel,
            repeats_edges=blobs.repeats_edges,
        )

    async def _official(self, files: NetworkFiles) -> Findings | None:
        try:
            return await asyncio.to_thread(official_findings, files.param, files.bin)
        except OSError as error:
            raise UnusableModelError(
                f"{files.param.name} and its .bin can't be read: {error.strerror}.", lasting=False
            ) from None


def _snapshot(folder: Path) -> _Snapshot:
    found: dict[str, _Stamp] = {}
    if not folder.is_dir():
        return found
    for path in folder.iterdir():
        if path.suffix in {".param", ".bin", ".yaml"} and not path.name.startswith("."):
            try:
                stat = path.stat()
            except FileNotFoundError:
                continue  # deleted, or a broken link
            found[path.name] = _Stamp(stat.st_size, stat.st_mtime_ns)
    return found


def _is_network(name: str) -> bool:
    return not name.endswith(".yaml")


def _key(folder: Path, stem: str, snapshot: _Snapshot) -> str:
    """Return the key of a pair's measurements; it changes with the files.

    Raises:
        UnusableModelError: not a pair, or its name is not allowed.
    """
    if not _NAME.fullmatch(stem):
        raise UnusableModelError(
            "The name is not valid. A name starts with a letter or digit, then come letters, "
            "digits and ._+- (at most 100 characters); rename both files.",
            lasting=True,
        )
    parts = [str(folder)]
    for name, other in ((f"{stem}.param", f"{stem}.bin"), (f"{stem}.bin", f"{stem}.param")):
        if name not in snapshot:
            raise UnusableModelError(f"{other} has no matching {name} beside it.", lasting=True)
        stamp = snapshot[name]
        parts.append(f"{name}:{stamp.size}:{stamp.mtime_ns}")
    return "|".join(parts)


def _families(
    usable: Mapping[str, ModelFiles], rejected: list[Rejected]
) -> tuple[dict[str, dict[int, ModelFiles]], dict[str, str]]:
    """Put siblings together; return their files by name, and the other names they go by."""
    families: dict[str, dict[int, ModelFiles]] = {}
    aliases: dict[str, str] = {}
    for stem, files in usable.items():
        match = _SIBLING.fullmatch(stem)
        # A pair with the family's own name is a separate model, and so are its siblings.
        name = match["family"] if match and match["family"] not in usable else stem
        members = families.setdefault(name, {})
        twin = members.get(files.native_scale)
        if twin is not None:
            rejected.append(
                Rejected(
                    files.param.name,
                    f"{files.param.name} enlarges {files.native_scale} times, as "
                    f"{twin.param.name} of the same model does.",
                )
            )
            continue
        members[files.native_scale] = files
        aliases[stem] = name
    return {
        name: dict(sorted(members.items())) for name, members in sorted(families.items())
    }, aliases


def _own_cards(
    name: str, members: Mapping[int, ModelFiles], cards: Mapping[str, ModelCard]
) -> dict[int, ModelCard]:
    """Return the card of each network: the one beside it, completed by the model's."""
    of_model = cards.get(name)
    found = {}
    for scale, files in members.items():
        beside = cards.get(files.stem)
        if beside is not None and of_model is not None:
            beside = beside.completed_by(of_model)
        found[scale] = beside or of_model or OFFICIAL_CARDS.get(name, ModelCard())
    return found


def _model(
    name: str,
    members: Mapping[int, ModelFiles],
    own: Mapping[int, ModelCard],
    of_model: ModelCard | None,
) -> Model:
    """Return a model whose networks have cards of their own."""
    card = merged([own[scale] for scale in members])
    if of_model is not None and of_model.description is not None:
        card = replace(card, description=of_model.description)
    return Model(
        name,
        card.description or _scales(members),
        members,
        card,
        {scale: own[scale].license for scale in members},
    )


def _scales(members: Mapping[int, ModelFiles]) -> str:
    """Return a description of a model without a card."""
    return f"Custom model ({', '.join(f'{scale}x' for scale in members)})"
