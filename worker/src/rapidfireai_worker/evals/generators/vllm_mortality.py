"""A process that ends with the one that started it: vLLM's engines would stay when their worker is killed."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time

LOOK_SECONDS = 0.5
"""How often an engine looks whether its worker still lives."""


def end_with_parent() -> None:
    """Kill this process once the one that started it is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        # Pipes to the parent may be open in other children too; whose child this is, is not.
        while os.getppid() == parent.pid:
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
