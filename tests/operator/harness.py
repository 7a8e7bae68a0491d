"""The operator as a process with the rights of its Role, and how tests wait."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from rapidfireai.cluster.control_plane import ControlPlane, free_ports
from rapidfireai_operator.adapters.kubernetes import Api, NotFoundError

ROOT = Path(__file__).resolve().parents[2]
DEADLINE = 40.0


def operator_rules() -> list[dict[str, Any]]:
    """Read the rights that `docs/contracts.md` grants the operator: the tests run with these and no others."""
    rules, account = [], ""
    for line in (ROOT / "docs" / "contracts.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) != 4:
            account = ""
            continue
        account = cells[0] or account
        if account.startswith("`rapidfire-operator`"):
            group, resources = cells[1].strip('`"'), re.findall(r"`([^`]+)`", cells[2])
            rules.append({"apiGroups": [group], "resources": resources, "verbs": cells[3].split(", ")})
    return rules


def log_in_as_operator(control_plane: ControlPlane, namespace: str, directory: Path) -> Path:
    """Make the accounts of a workspace; return the directory with the operator's token, as a pod would have it."""
    account = f"operator-{namespace}"
    objects = [
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}},
        {
            "apiVersion": "v1",
            "kind": "ServiceAccount",
            "metadata": {"name": "rapidfire-worker", "namespace": namespace},
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "Role",
            "metadata": {"name": account, "namespace": namespace},
            "rules": operator_rules(),
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": account, "namespace": namespace},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": account},
            "subjects": [{"kind": "ServiceAccount", "name": account, "namespace": namespace}],
        },
    ]
    manifest = directory / "account.yaml"
    manifest.write_text(yaml.safe_dump_all(objects))
    answer = control_plane.kubectl("apply", "-f", str(manifest))
    assert answer.returncode == 0, answer.stderr
    token = control_plane.kubectl("create", "token", account, "--namespace", namespace).stdout
    home = directory / "account"
    home.mkdir()
    (home / "token").write_text(token.strip())
    (home / "ca.crt").write_bytes((control_plane.pki / "ca.crt").read_bytes())
    (home / "namespace").write_text(namespace)
    return home


class OperatorProcess:
    """`python -m rapidfireai_operator`, logged in with its own ServiceAccount."""

    def __init__(self, plane: ControlPlane, namespace: str, home: Path, **settings: str) -> None:
        self.home, self.process, self.log = home, None, home / "operator.log"
        self.port, self.health_port = free_ports(2)
        server = urlsplit(plane.server)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RAPIDFIRE")},
            "KUBERNETES_SERVICE_HOST": server.hostname or "",
            "KUBERNETES_SERVICE_PORT": str(server.port),
            "RAPIDFIRE_SERVICEACCOUNT_DIR": str(home),
            "RAPIDFIRE_NAMESPACES": namespace,
            "RAPIDFIRE_LEASE_SECONDS": "6",
            "RAPIDFIRE_PORT": str(self.port),
            "RAPIDFIRE_HEALTH_PORT": str(self.health_port),
            **settings,
        }

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "rapidfireai_operator"], env=self.environment, stdout=log, stderr=log
            )

    def kill(self) -> None:
        """End it without a warning."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def stop(self) -> int:
        """End it as a node does."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(30)


async def until(
    what: str, look: Callable[[], Awaitable[Any]], api: Api, namespace: str, seconds: float = DEADLINE
) -> Any:
    """Return what `look` returns once it is true; say what is in the namespace if the deadline passes."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            seen = await look()
        except NotFoundError:  # it is not there yet
            seen = None
        if seen:
            return seen
        if time.monotonic() > deadline:
            pytest.fail(f"not within {seconds:.0f} s: {what}\n{await inventory(api, namespace)}")
        await asyncio.sleep(0.05)


async def inventory(api: Api, namespace: str) -> str:
    """Return all that is in a namespace, shortly."""
    lines = []
    for kind in ("experiments", "icops", "runs", "jobs", "pods", "leases"):
        for body in (await api.list(kind, namespace)).items:
            status = body.get("status") or body.get("spec")
            lines.append(f"{kind} {body['metadata']['name']}: {json.dumps(status)[:1500]}")
    return "\n".join(lines)
