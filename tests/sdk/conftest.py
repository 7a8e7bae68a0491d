"""A workspace with the chart's rights and a real volume service; what the operator and workers do is acted."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from kubernetes import client
from tests.support.waiting import wait_for

from rapidfireai.api import GROUP, VERSION, Experiment, run_name
from rapidfireai.api.base import EXPERIMENT_LABEL
from rapidfireai.clone import cloned
from rapidfireai.cluster.control_plane import ControlPlane, free_ports
from rapidfireai.cluster.install import CHART
from rapidfireai.expand import expand
from rapidfireai.kube import connect_sync

NOW = "2026-01-01T00:00:00Z"


def condition(kind: str, status: str, reason: str = "Because", message: str = "") -> dict[str, Any]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": NOW}


def seal(checkpoint: Path) -> str:
    """Write a checkpoint's manifest as a worker does; return its digest."""
    files = {
        str(path.relative_to(checkpoint)): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "bytes": path.stat().st_size,
        }
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file()
    }
    facts = {"python": "3.11.9", "libraries": {"torch": "2.13.0"}, "threads": 1, "device": "cpu"}
    (checkpoint / "manifest.json").write_text(json.dumps({**facts, "files": files}))
    return hashlib.sha256((checkpoint / "manifest.json").read_bytes()).hexdigest()


@dataclass
class Workspace:
    """One namespace as the chart makes it."""

    plane: ControlPlane
    namespace: str
    volume: Path
    api: client.ApiClient
    volume_url: str
    objects: client.CustomObjectsApi = field(init=False)

    def __post_init__(self) -> None:
        self.objects = client.CustomObjectsApi(self.api)

    @property
    def kubeconfig(self) -> Path:
        return self.plane.kubeconfig

    def experiments(self) -> list[Experiment]:
        listed = self.objects.list_namespaced_custom_object(GROUP, VERSION, self.namespace, "experiments")
        return [Experiment.from_body(item) for item in listed["items"]]

    def experiment(self, name: str) -> Experiment | None:
        return next((each for each in self.experiments() if each.metadata.name == name), None)

    def run(self, name: str) -> Any:
        return self.objects.get_namespaced_custom_object(GROUP, VERSION, self.namespace, "runs", name)

    # What users do without Python.

    def create_experiment(self, name: str, display_name: str = "", **training_args: Any) -> Experiment:
        spec = {
            **({"displayName": display_name} if display_name else {}),
            "configs": [{"trainer": "SFT", "config": {"training_args": training_args}}],
            "chunks": 2,
            "data": {"train": {"uri": "hf://x/y"}},
        }
        body = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Experiment", "metadata": {"name": name}, "spec": spec}
        made = self.objects.create_namespaced_custom_object(GROUP, VERSION, self.namespace, "experiments", body)
        return Experiment.from_body(made)

    def scale(self, name: str, replicas: int) -> None:
        patch = {"spec": {"workers": {"replicas": replicas}}}
        self.objects.patch_namespaced_custom_object(GROUP, VERSION, self.namespace, "experiments", name, patch)

    # What the operator does.

    def judge(self, name: str, state: str, *conditions: dict[str, Any], **more: Any) -> None:
        self._write("experiments", name, {"state": state, "conditions": list(conditions), **more})

    def create_runs(self, experiment: Experiment) -> list[str]:
        """Expand the experiment as the operator does; return the runs' names."""
        name = experiment.metadata.name
        owner = {"apiVersion": f"{GROUP}/{VERSION}", "kind": "Experiment", "name": name, "uid": experiment.metadata.uid}
        leaves = expand(experiment.spec.configs, mode=experiment.spec.mode)
        for index, leaf in enumerate(leaves, start=1):
            body = {
                "apiVersion": f"{GROUP}/{VERSION}",
                "kind": "Run",
                "metadata": {
                    "name": run_name(name, index),
                    "labels": {EXPERIMENT_LABEL: name},
                    "ownerReferences": [owner],
                },
                "spec": {"experimentRef": name, "index": index, "config": leaf},
            }
            self.objects.create_namespaced_custom_object(GROUP, VERSION, self.namespace, "runs", body)
        return [run_name(name, index + 1) for index in range(len(leaves))]

    def next_icop(self) -> Any:
        """Wait for an operation that is not complete."""

        def look() -> Any:
            listed = self.objects.list_namespaced_custom_object(GROUP, VERSION, self.namespace, "icops")
            return next((each for each in listed["items"] if not each.get("status")), None)

        return wait_for("IC Op", look)

    def complete(self, icop: Any, refused: dict[str, str] | None = None, **created: str) -> None:
        """Complete an operation: these runs refused with their reasons, all others done; `r1="sft-r3"` names clones."""
        reasons = refused or {}
        results = [
            {"run": run, "outcome": "Refused" if run in reasons else "Applied", "message": reasons.get(run, "")}
            for run in icop["spec"]["runs"]
        ]
        for result in results:
            name = created.get(result["run"].rpartition("-")[2])
            result.update({"created": name} if name else {})
        status = {"results": results, "summary": "done", "conditions": [condition("Complete", "True")]}
        self._write("icops", icop["metadata"]["name"], status)

    def create_clone(self, icop: Any, parent: str, name: str) -> None:
        """Make the clone that an operation asks for."""
        body, clone = self.run(parent), icop["spec"]["clone"]
        reference = {"name": parent, "uid": body["metadata"]["uid"], "index": body["spec"]["index"]}
        if clone["warmStart"]:
            reference |= {"warmStart": True, "checkpoint": body["status"]["progress"]["checkpoint"]}
        experiment = body["spec"]["experimentRef"]
        made = {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "Run",
            "metadata": {"name": name, "labels": {EXPERIMENT_LABEL: experiment}},
            "spec": {
                "experimentRef": experiment,
                "index": int(name.rpartition("-r")[2]),
                "config": cloned(body["spec"]["config"], clone["patch"]),
                "parentRef": reference,
            },
        }
        self.objects.create_namespaced_custom_object(GROUP, VERSION, self.namespace, "runs", made)

    # What a worker does, and the operator after it.

    def commit(self, experiment: Experiment, run: str, chunk: int, chunks: int = 2, **status: Any) -> None:
        """Commit a chunk of two steps, with its log lines and a model of one file."""
        uid = self.objects.get_namespaced_custom_object(GROUP, VERSION, self.namespace, "runs", run)["metadata"]["uid"]
        step = 2 * (chunk + 1)
        path = f"experiments/{experiment.metadata.uid}/runs/{uid}/checkpoints/{step}-1"
        model = self.volume / path / "model"
        model.mkdir(parents=True, exist_ok=True)
        (model / "adapter_model.safetensors").write_text(f"{run} at {step}")
        digest = seal(model.parent)
        record = model.parents[2] / "run.json"
        commits = json.loads(record.read_text())["commits"] if record.exists() else []
        checkpoint = {"path": path, "digest": digest, "step": step}
        record.write_text(json.dumps({"commits": [*commits, checkpoint]}))
        log = model.parents[2] / "logs" / "metrics.jsonl"
        log.parent.mkdir(exist_ok=True)
        with log.open("a") as file:
            for kind, values in (("log", {"loss": 3.0 - chunk}), ("boundary", {"boundary/eval_loss": 2.5 - chunk})):
                line = {"kind": kind, "sequence": chunk + 1, "step": step, "time": 1.0, "values": values}
                file.write(json.dumps(line) + "\n")
        progress = {"attempt": chunk + 1, "chunk": chunk, "step": step, "final": True, "loss": f"{3.0 - chunk:.3f}"}
        self._write(
            "runs",
            run,
            {
                "state": "Running",
                "prepared": {"totalSteps": 2 * chunks, "boundaries": [2 * (i + 1) for i in range(chunks)], "bytes": 1},
                "progress": {**progress, "seconds": 1.5, "checkpoint": checkpoint},
                "display": {"chunks": f"{chunk + 1}/{chunks}", "objective": f"{2.5 - chunk:.3f}"},
                "mlflowRunID": f"mlflow-{run}",
                **status,
            },
        )

    def end_run(self, run: str, state: str = "Succeeded", *conditions: dict[str, Any]) -> None:
        self._write("runs", run, {"state": state, "conditions": list(conditions)})

    def _write(self, plural: str, name: str, status: dict[str, Any]) -> None:
        self.objects.patch_namespaced_custom_object_status(
            GROUP, VERSION, self.namespace, plural, name, {"status": status}
        )


@pytest.fixture
def workspace(
    control_plane: ControlPlane, crds: None, namespace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workspace:
    """Make a workspace whose volume service is not there."""
    volume = tmp_path / "volume"
    volume.mkdir()
    api = connect_sync(control_plane.kubeconfig)
    settings = {
        "volume-url": f"http://127.0.0.1:{free_ports(1)[0]}",
        "mlflow-url": "http://127.0.0.1:8852",
        "claim-name": "rapidfire-data",
        "mount-path": str(volume),
    }
    body = {"metadata": {"name": "rapidfire-workspace"}, "data": settings}
    client.CoreV1Api(api).create_namespaced_config_map(namespace, body)
    monkeypatch.chdir(tmp_path)
    return Workspace(control_plane, namespace, volume, api, settings["volume-url"])


@pytest.fixture
def served(workspace: Workspace, tmp_path: Path) -> Iterator[Workspace]:
    """Make a workspace with the chart's accounts and its volume service."""
    _apply(workspace.plane, _accounts(workspace.plane, workspace.namespace))
    process = _volume_service(workspace, tmp_path)
    yield workspace
    process.kill()
    process.wait(10)


def _accounts(plane: ControlPlane, namespace: str) -> list[dict[str, Any]]:
    words = [str(plane.binary), "helm", "template", "rapidfireai", str(CHART.resolve()), "--values", "-"]
    words += ["--show-only", "templates/workspace/rbac.yaml"]
    values = yaml.safe_dump({"workspaces": [namespace]})
    answer = subprocess.run(words, input=values, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    rendered = [each for each in yaml.safe_load_all(answer.stdout) if each]
    for each in rendered:
        if each["kind"] == "ClusterRoleBinding":
            each["metadata"]["name"] += f"-{namespace}"
    return rendered


def _apply(plane: ControlPlane, objects: list[dict[str, Any]]) -> None:
    words = [str(plane.binary), "kubectl", "--kubeconfig", str(plane.kubeconfig), "apply", "-f", "-"]
    answer = subprocess.run(words, input=yaml.safe_dump_all(objects), capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr


def token_of(workspace: Workspace, account: str) -> str:
    core = client.CoreV1Api(workspace.api)
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[]))
    return str(core.create_namespaced_service_account_token(account, workspace.namespace, request).status.token)


def _volume_service(workspace: Workspace, directory: Path) -> subprocess.Popen[bytes]:
    account = directory / "account"
    account.mkdir()
    (account / "token").write_text(token_of(workspace, "rapidfire-volume"))
    (account / "ca.crt").write_bytes((workspace.plane.pki / "ca.crt").read_bytes())
    (account / "namespace").write_text(workspace.namespace)
    host, api_port = workspace.plane.server.removeprefix("https://").split(":")
    environment = {
        "PATH": os.environ["PATH"],
        "RAPIDFIRE_SERVICEACCOUNT_DIR": str(account),
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": api_port,
        "POD_NAME": "rapidfire-volume",
        "POD_NAMESPACE": workspace.namespace,
        "POD_IP": "127.0.0.1",
        "RAPIDFIRE_VOLUME": str(workspace.volume),
        "RAPIDFIRE_PORT": workspace.volume_url.rpartition(":")[2],
    }
    log = (directory / "volume.log").open("wb")
    process = subprocess.Popen(
        [sys.executable, "-m", "rapidfireai_worker.volume"], env=environment, stdout=log, stderr=log
    )

    def answers() -> bool:
        assert process.poll() is None, (directory / "volume.log").read_text()
        try:
            return httpx.get(f"{workspace.volume_url}/healthz", trust_env=False).is_success
        except httpx.ConnectError:
            return False

    wait_for("answer of the volume service", answers)
    return process


@pytest.fixture
def act() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Play the operator's part in a thread; whatever goes wrong there fails the test."""
    problems: list[BaseException] = []
    threads: list[threading.Thread] = []

    def start(part: Callable[[], None]) -> None:
        def play() -> None:
            try:
                part()
            except BaseException as problem:
                problems.append(problem)
                raise

        threads.append(threading.Thread(target=play, daemon=True))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    assert not problems
