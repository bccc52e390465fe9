"""One heap for all threads of the page's process.

glibc gives threads heaps of their own, up to eight for each core, and keeps in each what a thread has freed, large images too:
memory grows with every thread that has read one. With one heap the next thread uses what the one before has freed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys

_ARENA_MAX = -8  # M_ARENA_MAX of glibc's <malloc.h>


def share() -> None:
    """Let threads that begin from now on share the heaps that are there. MALLOC_ARENA_MAX in the environment goes first."""
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(OSError, AttributeError):  # another C library has no such thing
            ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)
