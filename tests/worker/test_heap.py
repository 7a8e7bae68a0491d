"""That threads which take turns do not each keep memory."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import ctypes, sys, threading
from rapidfireai_worker.heap import share_one_heap

if sys.argv[1] == "shared":
    share_one_heap()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
done = threading.Barrier(5)
for _ in range(4):
    threading.Thread(target=lambda: (libc.malloc(1000), done.wait()), daemon=True).start()
done.wait()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mallopt is glibc's")
@pytest.mark.parametrize(("way", "heaps"), [("shared", 1), ("apart", 5)])
def test_threads_share_one_heap(way: str, heaps: int) -> None:
    said = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True).stdout
    assert said.count("<heap nr=") == heaps
