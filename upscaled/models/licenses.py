"""Licences of models: which of them are known to allow commercial use.

Texts are SPDX identifiers and expressions, or what people write in their place: ``Apache 2.0``,
``CC BY 4.0``, ``GPLv3``. A name that is not known here counts as one that forbids it: a model that
is hidden by mistake is noticed at once, one that is offered by mistake is not.
"""

from __future__ import annotations

import re

UNKNOWN = "unknown"

_ALLOWING = re.compile(
    r"(?:the )?(?:"
    r"mit|isc|(?:0|\d clause )?bsd ?\d?|zlib|wtfpl|unlicense|public domain|pddl|postgresql|ncsa|"
    r"apache ?\d?|artistic|boost|ms pl|mulanpsl|mpl|mozilla|epl|eupl|[al]?gpl ?(?:v?\d)?|"
    r"gnu (?:affero |lesser )?(?:general )?public|cc ?0|cc by|"
    r"creative commons (?:attribution|zero)|creativeml open ?rail|openrail"
    r")(?![a-z])"
)
"""How such names begin, in lower case, with a space for everything but letters and digits."""
_FORBIDDING = re.compile(
    r"\b(?:nc|noncommercial|nonprofit|research|academic|education(?:al)?|evaluation|personal|"
    r"commons clause)\b"
)


def allows_commercial_use(text: str | None) -> bool:
    """Whether a licence is known to allow commercial use: one side of OR, all sides of AND."""
    text = text or ""
    sides = [text] if "(" in text else re.split(r"\bOR\b", text)
    for side in sides:
        parts = [part for part in re.split(r"\bAND\b|\bOR\b|[()]", side) if part.strip()]
        if parts and all(_allows(part) for part in parts):
            return True
    return False


def _allows(text: str) -> bool:
    words = " ".join(re.findall(r"[a-z0-9]+", text.lower())).replace("non ", "non")
    return bool(_ALLOWING.match(words)) and not _FORBIDDING.search(words)


def joined(licenses: list[str | None]) -> str | None:
    """Return the licence of several networks together; None where none of them is known."""
    different = list(dict.fromkeys(licenses))
    if len(different) == 1:
        return different[0]
    named = [text or UNKNOWN for text in different]
    return " AND ".join(f"({text})" if re.search(r"\bOR\b", text) else text for text in named)
