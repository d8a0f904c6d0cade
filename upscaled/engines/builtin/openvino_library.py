"""The OpenVINO library. Import it from here, which disables its telemetry."""

# ruff: noqa: E402 - one line must precede the import

from __future__ import annotations

import sys

# On import OpenVINO reports its use to Google Analytics and stores an id in the home directory.
# Without this module it does neither, and works the same.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino
from openvino import opset13 as ops

__all__ = ["openvino", "ops"]
