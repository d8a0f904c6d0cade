"""upscaled: a self-hosted image upscaling service around Real-ESRGAN."""

from importlib.metadata import version

__version__ = version("upscaled")
