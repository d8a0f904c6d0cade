"""Many pictures in one run: found, decided on, upscaled side by side, recorded.

Works with a service in this process (`local`) or a server (`remote`). Nothing is imported here, so
that a command loads only what it uses.
"""
