"""The set of weights in a document that holds several: what a network is used with."""

from __future__ import annotations

import re

import numpy as np

from upscaled.models.conversion.errors import ConversionError
from upscaled.models.conversion.tensors import MOST_TENSORS, Weights

_AVERAGED = re.compile(r"(?:^|[_.-])ema(?:$|[_.-])")
_SETS = (
    "params", "state_dict", "model_state_dict", "model", "net", "netG", "generator", "weights",
)  # fmt: skip
"""Keys under which training programs keep a set of weights, the best first."""
_PREFIXES = ("module.", "netG.", "generator.", "net_g.", "model_ema.", "params_ema.", "params.")
_NOT_FOR_USE = re.compile(r"optim|sched|disc|net_?d|loss", re.I)
_DEEPEST = 4


def chosen_set(document: object, name: str) -> Weights:
    """Return the set of weights to use, without its training program's prefix.

    Averaged weights (EMA) are preferred, then the usual names, then any other set but those of
    optimizers and discriminators.

    Raises:
        ConversionError: there is none, or it is damaged.
    """
    for _ in range(_DEEPEST):
        if not isinstance(document, dict):
            raise ConversionError(f"{name} holds no state_dict but {type(document).__name__}.")
        if _holds_tensors(document):
            break
        keys = [key for key, value in document.items() if _reaches_tensors(value, _DEEPEST)]
        best = min(keys, key=lambda key: _rank(str(key)), default=None)
        if best is None or _rank(str(best)) > len(_SETS):
            break
        document = document[best]
    assert isinstance(document, dict)  # noqa: S101 - the loop has made sure
    found = {str(key): value for key, value in document.items() if isinstance(value, np.ndarray)}
    if len(found) > MOST_TENSORS:
        raise ConversionError(f"{name} has more than {MOST_TENSORS} tensors.")
    for prefix in _PREFIXES:
        if found and all(key.startswith(prefix) for key in found):
            found = {key.removeprefix(prefix): value for key, value in found.items()}
    for key, value in found.items():
        if not np.isfinite(value).all():
            raise ConversionError(
                f"{name} is damaged: {key:.60} holds numbers that are not finite."
            )
    return found


def _rank(key: str) -> int:
    """Return how good a set is by its key; more than the usual names have: none to use."""
    if _AVERAGED.search(key):
        return -1
    if key in _SETS:
        return _SETS.index(key)
    return len(_SETS) + bool(_NOT_FOR_USE.search(key))


def _holds_tensors(document: object) -> bool:
    return isinstance(document, dict) and any(
        isinstance(value, np.ndarray) for value in document.values()
    )


def _reaches_tensors(document: object, depth: int) -> bool:
    """Whether tensors are in a dictionary or in one within it; each is visited once."""
    seen: set[int] = set()
    values: list[object] = [document]
    for _ in range(depth):
        level = [one for one in values if isinstance(one, dict) and id(one) not in seen]
        if any(_holds_tensors(one) for one in level):
            return True
        seen |= {id(one) for one in level}
        values = [value for one in level for value in one.values()]
    return False
