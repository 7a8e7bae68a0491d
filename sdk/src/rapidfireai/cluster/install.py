"""The chart, installed with Helm: the same way on the local cluster and on any other."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rapidfireai.errors import RapidFireError

RELEASE = "rapidfireai"
SYSTEM_NAMESPACE = "rapidfire-system"
CHART = Path(__file__).resolve().parent / "chart"
"""The chart: in the source tree a link to `charts/rapidfireai`, in an installed package a directory."""
_INTERRUPTED = "another operation (install/upgrade/rollback) is in progress"


class InstallError(RapidFireError):
    """Helm did not install the chart; the message is Helm's own."""


class Helm:
    """Helm against one cluster, its own files kept in one directory.

    Args:
        binary: The `kubelocal` binary.
        kubeconfig: Of a cluster's administrator.
        home: Where Helm keeps its caches and settings.
    """

    def __init__(self, binary: Path, kubeconfig: Path, home: Path) -> None:
        self._binary = binary
        self._env = {**os.environ, "KUBECONFIG": str(kubeconfig)}
        self._env |= {f"HELM_{kind}_HOME": str(home / kind.lower()) for kind in ("CACHE", "CONFIG", "DATA")}

    def install(
        self, values: Mapping[str, Any] | None = None, files: Sequence[Path] = (), *, take_ownership: bool = False
    ) -> str:
        """Install the chart, or bring what is installed up to date; nothing waits for pods.

        Args:
            values: What differs from the chart's defaults.
            files: YAML files with values, which go before these; later ones win.
            take_ownership: Whether objects that somebody else made are taken over.

        Returns:
            What Helm says about it, and what to do next.

        Raises:
            InstallError: If Helm or the API server refuses.
        """
        words = ["upgrade", "--install", RELEASE, str(CHART.resolve()), "--namespace", SYSTEM_NAMESPACE]
        words += ["--create-namespace", "--history-max", "3"]
        words += ["--take-ownership"] if take_ownership else []
        words += [word for file in ("-", *files) for word in ("--values", str(file))]
        stdin = json.dumps(values or {})
        answer = self._run("helm", words, stdin)
        if answer.returncode != 0 and _INTERRUPTED in answer.stderr:
            self._forget_interrupted()
            answer = self._run("helm", words, stdin)
        if answer.returncode != 0:
            raise InstallError(f"helm could not install {CHART.resolve()}: {answer.stderr.strip()}")
        return answer.stdout

    def _forget_interrupted(self) -> None:
        """Remove the record of an installation that was killed half way; the next one completes it."""
        selector = f"owner=helm,name={RELEASE},status in (pending-install,pending-upgrade,pending-rollback)"
        words = ["delete", "secrets", "--namespace", SYSTEM_NAMESPACE, "--selector", selector]
        answer = self._run("kubectl", words)
        if answer.returncode != 0:
            raise InstallError(f"an interrupted installation could not be cleared: {answer.stderr.strip()}")

    def _run(self, program: str, words: Sequence[str], stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(self._binary), program, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False, env=self._env)
