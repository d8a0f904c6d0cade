"""Licences as their authors and other people write them."""

from __future__ import annotations

import pytest

from upscaled.models.licenses import allows_commercial_use, joined


@pytest.mark.parametrize(
    "text",
    [
        "MIT", "The MIT License (MIT)", "Apache-2.0", "apache2", "BSD-3-Clause", "3-Clause BSD",
        "0BSD", "GPLv3", "GPL-3.0-or-later", "AGPL-3.0", "GNU Affero General Public License v3",
        "LGPL-2.1", "MPL-2.0", "CC0-1.0", "CC-BY-4.0", "CC BY SA 4.0", "cc_by_4.0",
        "Creative Commons Attribution 4.0", "Unlicense", "WTFPL", "OpenRAIL-M",
        "GPL-3.0-only OR CC-BY-NC-4.0", "MIT AND (Apache-2.0)",
    ],
)  # fmt: skip
def test_a_licence_that_allows_commercial_use(text: str) -> None:
    assert allows_commercial_use(text)


@pytest.mark.parametrize(
    "text",
    [
        None, "", " ", "unknown", "NONE", "NOASSERTION", "CC-BY-NC-SA-4.0", "CC BY NC SA 4.0",
        "cc_by_nc_4.0", "Creative Commons Attribution-NonCommercial", "Non-Commercial",
        "non commercial", "S-Lab License 1.0", "NPOSL-3.0", "NCGL-UK-2.0", "BUSL-1.1", "Custom",
        "Academic use", "All rights reserved", "proprietary", "MIT (research only)", "mitre",
        "Apache-2.0 with Commons Clause", "MIT AND CC-BY-NC-4.0", "MIT AND unknown",
        "(MIT OR CC-BY-NC-4.0) AND CC-BY-NC-4.0", "OR", "AND",
    ],
)  # fmt: skip
def test_a_licence_that_forbids_it_or_is_not_known(text: str | None) -> None:
    assert not allows_commercial_use(text)


def test_the_licence_of_several_networks_names_each_once() -> None:
    assert joined(["MIT", "MIT"]) == "MIT"
    assert joined([None, None]) is None
    assert joined(["MIT", None]) == "MIT AND unknown"
    assert joined(["MIT OR ISC", "0BSD"]) == "(MIT OR ISC) AND 0BSD"
