"""A workspace with the chart's rights and fence, and real worker processes in it."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from tests.support.waiting import wait_for

from rapidfireai.cluster.control_plane import ControlPlane, free_ports
from rapidfireai.cluster.install import CHART, SYSTEM_NAMESPACE

API = "/apis/rapidfire.ai/v1alpha1"
MERGE = {"Content-Type": "application/merge-patch+json"}
FENCED = {"fenced": "yes"}
NAMESPACE = "the-workspace"
SCRIPTED = Path(__file__).with_name("scripted_worker.py")
Status = dict[str, Any]
WaitUntil = Callable[..., Any]


@pytest.fixture(scope="session")
def wait_until() -> WaitUntil:
    return wait_for


@dataclass
class Process:
    """A process in a pod of the workspace."""

    popen: subprocess.Popen[bytes]
    log: Path
    pod: str
    address: str

    @property
    def words(self) -> str:
        return self.log.read_text()

    def end(self, seconds: float = 20.0) -> int:
        """Wait for its end and return the exit code."""
        try:
            return self.popen.wait(seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"still running after {seconds} s:\n{self.words[-3000:]}")

    def terminate(self) -> int:
        self.popen.send_signal(signal.SIGTERM)
        return self.end()


@dataclass
class Workspace:
    """A namespace with the chart's accounts, a volume, and an experiment `e`."""

    plane: ControlPlane
    admin: httpx.Client
    roles: str
    volume: Path
    directory: Path
    namespace: str = field(default_factory=lambda: f"ws-{uuid.uuid4().hex[:8]}")
    experiment: dict[str, Any] = field(default_factory=dict)
    processes: list[Process] = field(default_factory=list)
    runs: int = 0

    def prepare(self) -> None:
        self.post("/api/v1/namespaces", {"metadata": {"name": self.namespace, "labels": FENCED}})
        apply(self.plane, self.roles.replace(NAMESPACE, self.namespace))
        spec = {"configs": [{"trainer": "SFT", "config": {}}], "data": {"train": {"uri": "pvc://data/train.jsonl"}}}
        self.experiment = self.post(self.path("experiments"), self._object("Experiment", "e", spec))

    def close(self) -> None:
        for process in self.processes:
            if process.popen.poll() is None:
                process.popen.kill()
                process.popen.wait(10)
        self.admin.delete(f"/api/v1/namespaces/{self.namespace}")

    # What the operator does.

    def create_run(self, **script: Any) -> str:
        """Create a Run whose engine follows `script`; return its name."""
        return self._create_run(script)

    def create_clone(self, parent: dict[str, Any], **script: Any) -> str:
        """Create a Run with a `parentRef`."""
        return self._create_run(script, parentRef=parent)

    def _create_run(self, script: dict[str, Any], **spec: Any) -> str:
        self.runs += 1
        index = self.runs
        name = f"e-r{index}"
        body = self._object("Run", name, {"experimentRef": "e", "index": index, "config": script, **spec})
        owner = {"apiVersion": "rapidfire.ai/v1alpha1", "kind": "Experiment", "name": "e", "controller": True}
        body["metadata"]["ownerReferences"] = [{**owner, "uid": self.experiment["metadata"]["uid"]}]
        self.post(self.path("runs"), body)
        return name

    def assign(self, run: str, process: str, chunk: int = 0, **more: Any) -> int:
        """Give a chunk, or with -1 the prepare task, to a process; return the attempt."""
        attempt = int(self.run(run).get("status", {}).get("attempt", 0)) + 1
        pod = process.split("/", maxsplit=1)[0]
        given = {
            "worker": pod[:-6],
            "pod": pod,
            "podUID": self.uid_of(pod),
            "process": process,
            "attempt": attempt,
            "task": "prepare" if chunk < 0 else "chunk",
            "chunk": chunk,
            "grantedAt": time.time(),
            **more,
        }
        self.write(run, {"state": "Running", "attempt": attempt, "assignment": given})
        return attempt

    def write(self, run: str, status: Status, user: str = "", **extra: str) -> None:
        """Write a Run's status as the operator, or as somebody else."""
        who = {
            "Impersonate-User": user or f"system:serviceaccount:{SYSTEM_NAMESPACE}:rapidfire-operator",
            "Impersonate-Group": "system:masters",
            **{f"Impersonate-Extra-authentication.kubernetes.io%2F{key}": value for key, value in extra.items()},
        }
        path = self.path("runs", run, "status")
        answer = self.admin.patch(path, json={"status": status}, headers={**MERGE, **who})
        assert answer.is_success, answer.text

    def write_progress(self, run: str, progress: Status) -> None:
        """Write a Run's progress as the worker that it is assigned to."""
        given = self.run(run)["status"]["assignment"]
        user = f"system:serviceaccount:{self.namespace}:rapidfire-worker"
        self.write(run, {"progress": progress}, user, **{"pod-name": given["pod"], "pod-uid": given["podUID"]})

    def patch_experiment(self, spec: dict[str, Any]) -> None:
        answer = self.admin.patch(self.path("experiments", "e"), json={"spec": spec}, headers=MERGE)
        assert answer.is_success, answer.text

    def patch(self, run: str, spec: dict[str, Any]) -> None:
        answer = self.admin.patch(self.path("runs", run), json={"spec": spec}, headers=MERGE)
        assert answer.is_success, answer.text

    # What anybody sees.

    def run(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.admin.get(self.path("runs", name)).json()
        return found

    def progress(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.run(name).get("status", {}).get("progress", {})
        return found

    def committed(self, name: str, attempt: int, seconds: float = 30.0) -> dict[str, Any]:
        """Wait for the final commit of an attempt and return it."""

        def look() -> dict[str, Any] | None:
            progress = self.progress(name)
            return progress if progress.get("final") and progress["attempt"] == attempt else None

        found: dict[str, Any] = wait_for(f"commit of {name}#{attempt}, last: {self.progress(name)}", look, seconds)
        return found

    def lease(self, slot: str = "e-w-0") -> dict[str, Any]:
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{slot}"
        found: dict[str, Any] = self.admin.get(path).json()
        return found

    def holder(self, pod: str = "e-w-0-aaaaa") -> str:
        """Wait until a process of `pod` holds its slot's Lease, and return it."""

        def look() -> str:
            holder = str(self.lease(pod[:-6]).get("spec", {}).get("holderIdentity", ""))
            return holder if holder.startswith(pod) else ""

        return str(wait_for(f"lease of {pod}", look))

    def trace(self, event: str = "") -> list[dict[str, Any]]:
        """What was asked of the engines so far."""
        file = self.volume / "trace.jsonl"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if event in ("", line["event"])]

    def open_gate(self, run: str, gate: int | str) -> None:
        """Let the engine go on: that of a run, or as `engine` the making of it."""
        (self.volume / f"gate-{run}-{gate}").touch()

    def metrics_log(self, run: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log_path(run).read_text().splitlines()]

    def log_path(self, run: str) -> Path:
        experiment, uid = self.experiment["metadata"]["uid"], self.run(run)["metadata"]["uid"]
        return self.volume / "experiments" / experiment / "runs" / uid / "logs" / "metrics.jsonl"

    # Pods and what runs in them.

    def create_pod(self, name: str, account: str = "rapidfire-worker") -> None:
        spec = {"serviceAccountName": account, "containers": [{"name": "c", "image": "x"}]}
        self.post(f"/api/v1/namespaces/{self.namespace}/pods", {"metadata": {"name": name}, "spec": spec})

    def uid_of(self, pod: str) -> str:
        answer = self.admin.get(f"/api/v1/namespaces/{self.namespace}/pods/{pod}").json()
        return str(answer.get("metadata", {}).get("uid", "none"))

    def token(self, account: str, namespace: str = "", **spec: Any) -> str:
        where = f"/api/v1/namespaces/{namespace or self.namespace}/serviceaccounts/{account}/token"
        return str(self.post(where, {"spec": {"expirationSeconds": 3600, **spec}})["status"]["token"])

    def worker(self, pod: str = "e-w-0-aaaaa", **environment: str) -> Process:
        """Start a worker that follows scripts and wait until it takes assignments."""
        return self.ready(self.launch(pod, **environment))

    def real_worker(self, pod: str = "e-w-0-aaaaa", **environment: str) -> Process:
        """Start a worker that trains and wait until it takes assignments."""
        return self.ready(self.launch(pod, ("-m", "rapidfireai_worker"), **environment))

    @staticmethod
    def ready(process: Process) -> Process:
        wait_for("worker", lambda: process.popen.poll() is not None or "ready for assignments" in process.words)
        assert process.popen.poll() is None, process.words
        return process

    def launch(
        self, pod: str = "e-w-0-aaaaa", program: Sequence[str] = (str(SCRIPTED),), **environment: str
    ) -> Process:
        """Start a worker in a pod."""
        usual = {
            "RAPIDFIRE_EXPERIMENT": "e",
            "RAPIDFIRE_WORKER": pod[:-6],
            "RAPIDFIRE_CLAIMS": "{}",
            "OMP_NUM_THREADS": "1",
        }
        return self.start([sys.executable, *program], pod, "rapidfire-worker", {**usual, **environment})

    def launch_volume_service(self, **environment: str) -> Process:
        """Start the volume service."""
        command = [sys.executable, "-m", "rapidfireai_worker.volume"]
        return self.start(command, "rapidfire-volume-x", "rapidfire-volume", environment)

    def volume_service(self, **environment: str) -> Process:
        """Start the volume service and wait until it answers."""
        process = self.launch_volume_service(**environment)

        def answers() -> bool:
            assert process.popen.poll() is None, process.words
            try:
                return httpx.get(f"http://{process.address}/healthz", trust_env=False).is_success
            except httpx.ConnectError:
                return False

        wait_for("answer of the volume service", answers)
        return process

    def start(self, command: list[str], pod: str, account: str, environment: Mapping[str, str]) -> Process:
        """Start a process with a pod's identity and environment."""
        if self.uid_of(pod) == "none":
            self.create_pod(pod, account)
        bound = {"kind": "Pod", "apiVersion": "v1", "name": pod, "uid": self.uid_of(pod)}
        account_dir = self.directory / pod
        account_dir.mkdir(exist_ok=True)
        (account_dir / "token").write_text(self.token(account, boundObjectRef=bound))
        (account_dir / "ca.crt").write_bytes((self.plane.pki / "ca.crt").read_bytes())
        (account_dir / "namespace").write_text(self.namespace)
        host, port = self.plane.server.removeprefix("https://").split(":")
        address = f"127.0.0.1:{free_ports(1)[0]}"
        log = self.directory / f"{pod}-{len(self.processes)}.log"
        everything = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "RAPIDFIRE_SERVICEACCOUNT_DIR": str(account_dir),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            "POD_NAME": pod,
            "POD_UID": self.uid_of(pod),
            "POD_NAMESPACE": self.namespace,
            "POD_IP": "127.0.0.1",
            "RAPIDFIRE_VOLUME": str(self.volume),
            "RAPIDFIRE_PORT": address.split(":")[1],
            **environment,
        }
        with log.open("wb") as out:
            popen = subprocess.Popen(command, env=everything, stdout=out, stderr=out, cwd=self.directory)
        self.processes.append(Process(popen, log, pod, address))
        return self.processes[-1]

    # Small things.

    @staticmethod
    def wait(what: str, look: Callable[[], Any], seconds: float = 30.0) -> Any:
        return wait_for(what, look, seconds)

    def path(self, *words: str) -> str:
        return "/".join([API, "namespaces", self.namespace, *words])

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.admin.post(path, json=body)
        assert answer.is_success, answer.text
        created: dict[str, Any] = answer.json()
        return created

    def _object(self, kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        return {"apiVersion": "rapidfire.ai/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def render(plane: ControlPlane, *templates: str, **values: Any) -> list[dict[str, Any]]:
    """Render some of the chart's templates."""
    words = [str(plane.binary), "helm", "template", "rapidfireai", str(CHART.resolve()), "--namespace"]
    words += [SYSTEM_NAMESPACE, "--values", "-"]
    words += [word for each in templates for word in ("--show-only", f"templates/{each}.yaml")]
    answer = subprocess.run(words, input=yaml.safe_dump(values), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    return [each for each in yaml.safe_load_all(answer.stdout) if each]


def apply(plane: ControlPlane, objects: str) -> None:
    command = [str(plane.binary), "kubectl", "--kubeconfig", str(plane.kubeconfig), "apply", "-f", "-"]
    answer = subprocess.run(command, input=objects, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.fixture(scope="session")
def admin(control_plane: ControlPlane) -> Iterator[httpx.Client]:
    context = ssl.create_default_context(cafile=str(control_plane.pki / "ca.crt"))
    context.load_cert_chain(control_plane.pki / "admin.crt", control_plane.pki / "admin.key")
    with httpx.Client(base_url=control_plane.server, verify=context, trust_env=False, timeout=30) as http:
        yield http


@pytest.fixture(scope="session")
def fence(control_plane: ControlPlane, crds: None, admin: httpx.Client) -> None:
    """Put up the chart's fence, for labelled namespaces alone: other tests share the API server."""
    objects = render(control_plane, "fence/run-status", "fence/worker-leases")
    for each in objects:
        if each["kind"] == "ValidatingAdmissionPolicyBinding":
            each["spec"]["matchResources"] = {"namespaceSelector": {"matchLabels": FENCED}}
    apply(control_plane, yaml.safe_dump_all(objects))


@pytest.fixture(scope="session")
def roles(control_plane: ControlPlane) -> str:
    """The chart's accounts and rights of one workspace, as YAML that names it NAMESPACE."""
    rendered = render(control_plane, "operator/rbac", "workspace/rbac", workspaces=[NAMESPACE])
    for each in rendered:
        if each["kind"] == "ClusterRoleBinding":  # the chart has one for all workspaces
            each["metadata"]["name"] += f"-{NAMESPACE}"
    return yaml.safe_dump_all(
        each for each in rendered if each["kind"] == "ClusterRole" or NAMESPACE in yaml.safe_dump(each)
    )


NewWorkspace = Callable[[Path], AbstractContextManager[Workspace]]


@pytest.fixture(scope="session")
def new_workspace(control_plane: ControlPlane, admin: httpx.Client, fence: None, roles: str) -> NewWorkspace:
    """Make a workspace that keeps its files in a directory."""

    @contextmanager
    def make(directory: Path) -> Iterator[Workspace]:
        volume = directory / "volume"
        volume.mkdir()
        made = Workspace(control_plane, admin, roles, volume, directory)
        try:
            made.prepare()
            yield made
        finally:
            made.close()

    return make


@pytest.fixture
def workspace(new_workspace: NewWorkspace, tmp_path: Path) -> Iterator[Workspace]:
    with new_workspace(tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def service(workspace: Workspace) -> Process:
    """A volume service for all tests of a module, in the module's own workspace."""
    return workspace.volume_service()


@pytest.fixture(scope="module")
def token(workspace: Workspace) -> str:
    """A token for the volume service alone."""
    return workspace.token("rapidfire-user", audiences=["rapidfire-volume"])
