"""How the C library gives memory to threads."""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8
"""glibc's M_ARENA_MAX."""


def share_one_heap() -> None:
    """Have all threads of this process allocate from one heap; call it before there are any.

    Each run trains in a thread of its own, and they take turns. With a heap each, every parked run would keep the room
    that its activations had, which nobody uses meanwhile: about as much again as one run needs at its peak. A C library
    that has no such setting is left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_ARENA_MAX, 1)
