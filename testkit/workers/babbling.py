"""A worker that answers every request with a line that is no valid answer."""

import sys

for _ in sys.stdin:
    sys.stdout.write("7\n")
    sys.stdout.flush()
