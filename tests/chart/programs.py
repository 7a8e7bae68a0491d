"""What the tests of the chart need of others, from the Go module proxy: kubeconform, and definitions of monitors."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from rapidfireai.cluster.binary import cache_dir, find_go

MODULE = Path(__file__).resolve().parent / "go"
_PROMETHEUS_OPERATOR = "github.com/prometheus-operator/prometheus-operator@v0.85.0"
_SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
_MONITORS = ("podmonitors", "prometheusrules", "servicemonitors")


def kubeconform() -> Path:
    """Return kubeconform, built once from its pinned module (20 s)."""
    digest = hashlib.sha256((MODULE / "go.mod").read_bytes() + (MODULE / "go.sum").read_bytes())
    target = cache_dir() / f"kubeconform-{digest.hexdigest()[:16]}"
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            partial = target.with_suffix(".partial")
            words = ["build", "-trimpath", "-ldflags", "-s -w", "-o", str(partial)]
            _go(*words, "github.com/yannh/kubeconform/cmd/kubeconform")
            partial.rename(target)
    return target


def monitor_definitions() -> list[Path]:
    """Return the CustomResourceDefinitions of the Prometheus operator that the chart has objects of."""
    told: dict[str, Any] = json.loads(_go("mod", "download", "-json", _PROMETHEUS_OPERATOR))
    assert told["Sum"] == _SUM
    folder = Path(told["Dir"]) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{name}.yaml" for name in _MONITORS]


def _go(*words: str) -> str:
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -buildvcs=false", "GOTOOLCHAIN": "local"}
    answer = subprocess.run(
        [find_go(MODULE), *words], cwd=MODULE, env=environment, capture_output=True, text=True, check=False
    )
    assert answer.returncode == 0, answer.stderr[-2000:]
    return answer.stdout
