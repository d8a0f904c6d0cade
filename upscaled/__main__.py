"""``python -m upscaled`` and the command ``upscaled``."""

import sys

from upscaled.cli import main

if __name__ == "__main__":
    sys.exit(main())
