"""Write down what a terminal shows from `helm install` to a finished experiment: `python -m tests.node.transcript`.

It runs on a real node of its own, as root; the file in docs/transcripts is what it writes.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from tests.node import supplies
from tests.node.binaries import find_binaries
from tests.node.realnode import ROOT, RealNode, obstacle
from tests.node.team import SYSTEM, TEAM, Terminal, install, uninstall
from tests.support.images import NoImages, find_archives

TARGET = ROOT / "docs" / "transcripts" / "helm-install.txt"
_IN_TEAM = f"--namespace {TEAM}"
_TRAINED = (
    "cat tests/node/manifests/fit.yaml",
    "kubectl apply --filename tests/node/manifests/fit.yaml",
    f"kubectl wait job/sums-w-0 {_IN_TEAM} --for=create --timeout=1m",
    f"kubectl wait job/sums-w-0 {_IN_TEAM} --for=jsonpath='{{.status.ready}}'=1 --timeout=3m",
    f"kubectl logs job/sums-w-0 {_IN_TEAM} --follow",
    f"kubectl wait rfexp/sums {_IN_TEAM} --for=condition=Succeeded --timeout=10m",
    f"kubectl get rfexp,rfrun {_IN_TEAM}",
    f"kubectl get events {_IN_TEAM} --field-selector involvedObject.name=sums",
)


def record(node: RealNode) -> str:
    """Return the whole screen."""
    terminal = Terminal(node)
    terminal.type("kubectl get nodes")
    install(terminal)
    for line in _TRAINED:
        terminal.type(line)
    uninstall(terminal)
    terminal.type(f"kubectl get pods --namespace {SYSTEM}")
    terminal.type(f"kubectl get rfexp,persistentvolumeclaims {_IN_TEAM}")
    return "\n".join(terminal.screen)


def main() -> int:
    """Run it all and write the file; return the exit code."""
    reason = obstacle()
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    try:
        archives = find_archives()
    except NoImages as problem:
        print(problem, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="rapidfireai-node-") as folder:
        node = RealNode(Path(folder) / "n", find_binaries())
        try:
            node.start()
            supplies.furnish(node, archives)
            text = record(node)
        finally:
            node.stop()
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text)
    print(f"written: {TARGET.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
