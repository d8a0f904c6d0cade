"""The OpenVINO library, which has to be imported from here: it then keeps to itself."""

# ruff: noqa: E402 - one line has to come before the library

from __future__ import annotations

import sys

# OpenVINO's package reports its use to Google Analytics as soon as it is imported, and keeps a
# number for that in the home directory. Without this module it doesn't, and misses nothing.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

import openvino
from openvino import opset13 as ops

__all__ = ["openvino", "ops"]
