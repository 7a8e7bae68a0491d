"""A workspace with the chart's rights, a gateway as a process, and a line to the API server that can be cut."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import yaml
from tests.support.waiting import wait_for

from rapidfireai.cluster.control_plane import ControlPlane, free_ports
from rapidfireai.cluster.install import CHART

Object = dict[str, Any]
ADDRESS = "127.0.0.1"


class Line:
    """Passes connections on to the API server until it is cut, and again once it is mended."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[socket.socket] = set()
        self._cut = False
        self._server = socket.create_server((ADDRESS, 0))
        self.port = int(self._server.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break what is open, and refuse what comes."""
        self._cut = True
        for each in list(self._open):
            self._end(each)

    def mend(self) -> None:
        self._cut = False

    def close(self) -> None:
        self.cut()
        self._server.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:  # closed
                return
            if self._cut:
                near.close()
                continue
            far = socket.create_connection(self._target)
            self._open |= {near, far}
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    def _pump(self, one: socket.socket, other: socket.socket) -> None:
        try:
            while block := one.recv(65536):
                other.sendall(block)
        except OSError:  # either side is gone: so is the other one
            pass
        self._end(one)
        self._end(other)

    def _end(self, each: socket.socket) -> None:
        self._open.discard(each)
        with suppress(OSError):  # it has ended already
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@dataclass
class Site:
    """One workspace and its gateway.

    Attributes:
        plane: The control plane that all tests share.
        directory: For files of the processes.
        namespace: The workspace.
        line: What the gateway reaches the API server through.
    """

    plane: ControlPlane
    directory: Path
    namespace: str = field(default_factory=lambda: f"gw-{uuid.uuid4().hex[:8]}")
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def prepare(self) -> None:
        """Make the namespace with the chart's accounts and rights."""
        self.directory.mkdir(parents=True, exist_ok=True)
        self.volume = self.directory / "volume"
        self.volume.mkdir()
        host, port = self.plane.server.removeprefix("https://").split(":")
        self.line = Line(host, int(port))
        self.port, self.dashboard_port, self.volume_port = free_ports(3)
        if self.plane.kubectl("get", "namespace", self.namespace).returncode:
            assert self.plane.kubectl("create", "namespace", self.namespace).returncode == 0
        objects = [each for each in self._chart() if each["kind"] not in {"ClusterRole", "ClusterRoleBinding"}]
        self.apply(*objects, *self._reviews())
        self.token = self.token_of("rapidfire-user")

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait(10)
        self.line.close()
        self.plane.kubectl("delete", "clusterrolebinding", f"reviews-{self.namespace}", "--ignore-not-found")
        self.plane.kubectl("delete", "namespace", self.namespace, "--wait=false")

    # Processes.

    @property
    def log(self) -> Path:
        """What the gateway writes."""
        return self.directory / "rapidfireai_gateway.log"

    def gateway(self, **environment: str) -> None:
        """Start the gateway and wait until it answers on both ports."""
        told = {
            "KUBERNETES_SERVICE_HOST": ADDRESS,
            "KUBERNETES_SERVICE_PORT": str(self.line.port),
            "RAPIDFIRE_CA": (self.plane.pki / "ca.crt").read_text(),
            "RAPIDFIRE_NAMESPACES": self.namespace,
            "RAPIDFIRE_PORT": str(self.port),
            "RAPIDFIRE_DASHBOARD_PORT": str(self.dashboard_port),
            "POD_IP": ADDRESS,
            **environment,
        }
        self._start("rapidfireai_gateway", told, (self.port, self.dashboard_port))

    def volume_service(self) -> None:
        """Start the volume service and wait until it answers."""
        account = self.directory / "volume-account"
        account.mkdir()
        (account / "token").write_text(self.token_of("rapidfire-volume"))
        (account / "ca.crt").write_bytes((self.plane.pki / "ca.crt").read_bytes())
        (account / "namespace").write_text(self.namespace)
        host, port = self.plane.server.removeprefix("https://").split(":")
        told = {
            "RAPIDFIRE_SERVICEACCOUNT_DIR": str(account),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "POD_NAME": "rapidfire-volume-x",
            "POD_UID": str(uuid.uuid4()),
            "POD_NAMESPACE": self.namespace,
            "POD_IP": ADDRESS,
            "RAPIDFIRE_VOLUME": str(self.volume),
            "RAPIDFIRE_PORT": str(self.volume_port),
        }
        self._start("rapidfireai_worker.volume", told, (self.volume_port,))

    def _start(self, module: str, told: dict[str, str], ports: tuple[int, ...]) -> None:
        log = self.directory / f"{module}.log"
        kept = {name: os.environ[name] for name in ("PATH", "HOME")}
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", module], env={**kept, **told}, stdout=out, stderr=out, cwd=self.directory
            )
        self.processes.append(process)

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                urls = [f"http://{ADDRESS}:{port}/healthz" for port in ports]
                return all(httpx.get(url, trust_env=False).is_success for url in urls)
            except httpx.TransportError:
                return False

        wait_for(f"answer of {module}", answers, 120.0)

    # What users have.

    def http(self, token: str | None = None, **options: Any) -> httpx.Client:
        """Return a client of the gateway that sends a token; an empty one sends none."""
        chosen = self.token if token is None else token
        headers = {"Authorization": f"Bearer {chosen}"} if chosen else {}
        url = f"http://{ADDRESS}:{self.port}"
        return httpx.Client(base_url=url, headers=headers, trust_env=False, timeout=30, **options)

    @property
    def api(self) -> str:
        """The path of the workspace in the API."""
        return f"/api/v1/namespaces/{self.namespace}"

    def token_of(self, account: str, *words: str) -> str:
        answer = self.plane.kubectl("create", "token", account, "--namespace", self.namespace, *words)
        assert answer.returncode == 0, answer.stderr
        return answer.stdout.strip()

    def account(self, name: str, rules: list[Object]) -> str:
        """Make somebody with these rights; return their token."""
        meta = {"name": name, "namespace": self.namespace}
        rbac = "rbac.authorization.k8s.io"
        self.apply(
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta},
            {"apiVersion": f"{rbac}/v1", "kind": "Role", "metadata": meta, "rules": rules},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                "metadata": meta,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": name},
                "subjects": [{"kind": "ServiceAccount", "name": name, "namespace": self.namespace}],
            },
        )
        return self.token_of(name)

    # What the operator would have made.

    def apply(self, *objects: Object) -> None:
        command = [str(self.plane.binary), "kubectl", "--kubeconfig", str(self.plane.kubeconfig), "apply"]
        answer = subprocess.run(
            [*command, "--server-side", "--namespace", self.namespace, "-f", "-"],
            input=yaml.safe_dump_all(objects),
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, answer.stderr

    def run(self, experiment: str, index: int, config: Object | None = None, **status: Any) -> str:
        """Make a Run with a status; return its name."""
        name = f"{experiment}-r{index}"
        leaf = config or {"trainer_type": "SFT", "model_name": "m", "training_args": {"learning_rate": 0.001}}
        self.apply(
            {
                "apiVersion": "rapidfire.ai/v1alpha1",
                "kind": "Run",
                "metadata": {"name": name},
                "spec": {"experimentRef": experiment, "index": index, "config": leaf},
            }
        )
        if status:
            self.status(name, **status)
        return name

    def status(self, run: str, **status: Any) -> None:
        """Write a Run's status."""
        patch = json.dumps({"status": status})
        answer = self.plane.kubectl(
            *("patch", "run.rapidfire.ai", run, "--namespace", self.namespace),
            *("--subresource=status", "--type=merge", "--patch", patch),
        )
        assert answer.returncode == 0, answer.stderr

    def _chart(self) -> list[Object]:
        values = {
            "workspaces": [self.namespace],
            "volume": {"url": f"http://{ADDRESS}:{self.volume_port}"},
        }
        templates = ("workspace/rbac", "workspace/volume")
        shown = [word for each in templates for word in ("--show-only", f"templates/{each}.yaml")]
        command = [str(self.plane.binary), "helm", "template", "rapidfireai", str(CHART.resolve()), *shown]
        answer = subprocess.run(
            [*command, "--values", "-"], input=yaml.safe_dump(values), capture_output=True, text=True, check=False
        )
        assert answer.returncode == 0, answer.stderr
        wanted = {"ServiceAccount", "Role", "RoleBinding", "ConfigMap"}
        return [each for each in yaml.safe_load_all(answer.stdout) if each and each["kind"] in wanted]

    def _reviews(self) -> list[Object]:
        """The volume service may ask whose token it is."""
        rbac = "rbac.authorization.k8s.io"
        rules = [{"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}]
        return [
            {"apiVersion": f"{rbac}/v1", "kind": "ClusterRole", "metadata": {"name": "reviews"}, "rules": rules},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": f"reviews-{self.namespace}"},
                "roleRef": {"apiGroup": rbac, "kind": "ClusterRole", "name": "reviews"},
                "subjects": [{"kind": "ServiceAccount", "name": "rapidfire-volume", "namespace": self.namespace}],
            },
        ]
