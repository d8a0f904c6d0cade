"""``python -m upscaled`` and the command ``upscaled``."""

import sys

from upscaled.commands.main import main

if __name__ == "__main__":
    sys.exit(main())
