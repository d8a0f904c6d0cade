"""A worker whose answers are none."""

import sys

for _ in sys.stdin:
    sys.stdout.write("7\n")
    sys.stdout.flush()
