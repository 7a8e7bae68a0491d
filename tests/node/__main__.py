"""A real node in the foreground: `python -m tests.node HOME [IMAGE.tar ...]`, as root, until Ctrl-C."""

from __future__ import annotations

import argparse
import shlex
import sys
import threading
from pathlib import Path

from tests.node.binaries import find_binaries
from tests.node.realnode import RealNode, obstacle


def main() -> int:
    """Run a node until it is interrupted; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.node", description=__doc__)
    parser.add_argument("home", type=Path, help="a directory that is not there yet")
    parser.add_argument("images", nargs="*", type=Path, help="docker archives to load")
    options = parser.parse_args()
    reason = obstacle()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    node = RealNode(options.home, find_binaries())
    try:
        node.start()
        for image in options.images:
            node.load(image)
        words = node.inside([str(node.layout.kubelocal), "kubectl", "--kubeconfig", str(node.layout.kubeconfig)])
        print(f"ready: {shlex.join(words)} get nodes", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        return 0
    finally:
        node.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())
