"""One workspace of one cluster, as the SDK sees it: its experiments, their runs, and where its services are."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from rapidfireai.api import API_VERSION, GROUP, VERSION, Experiment, ICOp, ICOpSpec, Run
from rapidfireai.api.base import EXPERIMENT_LABEL
from rapidfireai.cluster.home import default_home, kubeconfig_of
from rapidfireai.errors import ClusterNotFoundError, ExperimentError
from rapidfireai.kube import connect_sync, service_account_dir
from rapidfireai.manifest import body_of
from rapidfireai.room import free_slots

WORKSPACE_CONFIG = "rapidfire-workspace"
USER_ACCOUNT = "rapidfire-user"
VOLUME_AUDIENCE = "rapidfire-volume"
VOLUME_URL_ENV = "RAPIDFIRE_VOLUME_URL"
_TIMEOUT = 15.0
_BUSY = frozenset({429, 500, 502, 503, 504})
"""Answers of an API server that starts, stops or has too much to do."""
_TOKEN_SECONDS = 3600


class NameTakenError(ExperimentError):
    """Another experiment has this name."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where the services of a workspace are.

    Attributes:
        volume_url: The volume service.
        mlflow_url: MLflow, or empty.
        claim_name: The claim that `pvc://` names the workspace's volume by.
        mount_path: Where workers have the volume; in local mode a directory of this machine.
    """

    volume_url: str
    mlflow_url: str
    claim_name: str
    mount_path: Path


def find_kubeconfig(explicit: Path | str | None) -> Path | None:
    """Return the kubeconfig to use: the named one, `KUBECONFIG`, or the local cluster's; None inside a pod.

    Raises:
        ClusterNotFoundError: If there is none.
    """
    if explicit is not None:
        path = Path(explicit).expanduser()
        if not path.is_file():
            raise ClusterNotFoundError(f"kubeconfig: there is no file {path}")
        return path
    if os.environ.get("KUBECONFIG"):
        return Path(os.environ["KUBECONFIG"])
    if service_account_dir() is not None:
        return None
    local = kubeconfig_of(default_home())
    if not local.is_file():
        raise ClusterNotFoundError(
            "there is no cluster: run `rapidfireai start` for one on this machine, or name one with kubeconfig= or "
            "KUBECONFIG"
        )
    return local


class Connection:
    """The experiments and runs of one namespace.

    Args:
        namespace: The workspace.
        kubeconfig: As for `find_kubeconfig`.

    Raises:
        ClusterNotFoundError: If there is no cluster to talk to.
    """

    def __init__(self, namespace: str = "default", kubeconfig: Path | str | None = None) -> None:
        self.namespace = namespace
        found = find_kubeconfig(kubeconfig)
        self.is_local = found is not None and found.absolute() == kubeconfig_of(default_home()).absolute()
        try:
            self._api = connect_sync(found)
        except (config.ConfigException, OSError) as error:
            raise ClusterNotFoundError(f"{found}: is no usable kubeconfig: {error}") from error
        # Who follows an experiment wants to know at once that the cluster does not answer.
        self._api.configuration.retries = 0
        self._objects = client.CustomObjectsApi(self._api)
        self._core = client.CoreV1Api(self._api)
        self._token = ""
        self._token_until = 0.0
        self._token_lock = threading.Lock()

    def close(self) -> None:
        """Close its connections."""
        self._api.close()

    @property
    def kubectl(self) -> str:
        """The command with which a person goes on, namespace included."""
        program = f"{_own_program()} kubectl" if self.is_local else "kubectl"
        return program if self.namespace == "default" else f"{program} --namespace {self.namespace}"

    def workspace(self) -> Workspace:
        """Return where the workspace's services are.

        Raises:
            ClusterNotFoundError: If the namespace is no workspace, or the cluster does not answer.
        """
        missing = (
            f"namespace {self.namespace!r} is no workspace of RapidFire AI; add it to the chart's value `workspaces`, "
            "or name another with namespace="
        )
        data = self._call(self._core.read_namespaced_config_map, WORKSPACE_CONFIG, self.namespace, missing=missing).data
        return Workspace(
            volume_url=os.environ.get(VOLUME_URL_ENV) or data["volume-url"],
            mlflow_url=data.get("mlflow-url", ""),
            claim_name=data["claim-name"],
            mount_path=Path(data["mount-path"]),
        )

    def experiments(self) -> list[Experiment]:
        """Return every experiment of the workspace."""
        missing = "the cluster does not know experiments; install the chart, or run `rapidfireai start`"
        listed = self._call(
            self._objects.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            "experiments",
            missing=missing,
        )
        return [Experiment.from_body(item) for item in listed["items"]]

    def experiment(self, name: str) -> Experiment:
        """Return one experiment.

        Raises:
            ExperimentError: If it does not exist.
        """
        try:
            body = self._call(
                self._objects.get_namespaced_custom_object, GROUP, VERSION, self.namespace, "experiments", name
            )
        except client.ApiException as error:
            if error.status == 404:
                raise ExperimentError(f"there is no experiment {name} in namespace {self.namespace}") from error
            raise
        return Experiment.from_body(body)

    def create_experiment(self, name: str, spec: Mapping[str, Any]) -> Experiment:
        """Create an experiment.

        Raises:
            NameTakenError: If the name is used.
            ExperimentError: If the API server refuses it; the message is the server's.
        """
        try:
            made = self._call(
                self._objects.create_namespaced_custom_object,
                GROUP,
                VERSION,
                self.namespace,
                "experiments",
                body_of(name, spec),
            )
        except client.ApiException as error:
            if error.status == 409:
                raise NameTakenError(f"there is an experiment {name} already") from error
            raise ExperimentError(f"the experiment was refused: {_message(error)}") from error
        return Experiment.from_body(made)

    def create_secret(self, body: Mapping[str, Any]) -> None:
        """Create a Secret.

        Raises:
            NameTakenError: If the name is used.
            ExperimentError: If the API server refuses it; what it says of the content stays out of the message.
        """
        name = body["metadata"]["name"]
        try:
            self._call(self._core.create_namespaced_secret, self.namespace, body)
        except client.ApiException as error:
            if error.status == 409:
                raise NameTakenError(f"there is a Secret {name} already") from None
            why = f"{error.status} {error.reason}"
            if error.status == 403:
                why = f"you may not create Secrets; ask to be bound to the workspace's Role {USER_ACCOUNT}"
            raise ExperimentError(f"Secret {name} was refused: {why}") from None

    def scale(self, name: str, replicas: int) -> None:
        """Set how many workers the experiment has; with 0 they commit at their next step and leave."""
        self.change(name, {"workers": {"replicas": replicas}})

    def change(self, name: str, spec: Mapping[str, Any]) -> None:
        """Merge a change into the spec of an experiment."""
        words = (GROUP, VERSION, self.namespace, "experiments", name, {"spec": dict(spec)})
        self._call(self._objects.patch_namespaced_custom_object, *words)

    def delete_experiment(self, name: str) -> None:
        """Delete an experiment and its runs."""
        self._call(self._objects.delete_namespaced_custom_object, GROUP, VERSION, self.namespace, "experiments", name)

    def runs(self, experiment: str) -> list[Run]:
        """Return the runs of an experiment in the order of their numbers."""
        listed = self._call(
            self._objects.list_namespaced_custom_object,
            GROUP,
            VERSION,
            self.namespace,
            "runs",
            label_selector=f"{EXPERIMENT_LABEL}={experiment}",
        )
        return sorted((Run.from_body(item) for item in listed["items"]), key=lambda run: run.spec.index)

    def run(self, name: str) -> Run:
        """Return one run.

        Raises:
            ExperimentError: If it does not exist.
        """
        try:
            body = self._call(self._objects.get_namespaced_custom_object, GROUP, VERSION, self.namespace, "runs", name)
        except client.ApiException as error:
            if error.status == 404:
                raise ExperimentError(f"there is no run {name} in namespace {self.namespace}") from error
            raise
        return Run.from_body(body)

    def stop_run(self, name: str) -> None:
        """Ask for a run to be stopped; one that is gone needs no asking."""
        patch = {"spec": {"desiredState": "Stopped"}}
        try:
            self._call(
                self._objects.patch_namespaced_custom_object, GROUP, VERSION, self.namespace, "runs", name, patch
            )
        except client.ApiException as error:
            if error.status != 404:
                raise

    def create_icop(self, spec: ICOpSpec) -> str:
        """Create an IC Op and return its name.

        Raises:
            ExperimentError: If the API server refuses it; the message is the server's.
        """
        names = {"generateName": f"{spec.experiment_ref}-{spec.op.lower()}-"}
        labels = {EXPERIMENT_LABEL: spec.experiment_ref}
        body = {
            "apiVersion": API_VERSION,
            "kind": "ICOp",
            "metadata": {**names, "labels": labels},
            "spec": spec.to_wire(),
        }
        try:
            made = self._call(
                self._objects.create_namespaced_custom_object, GROUP, VERSION, self.namespace, "icops", body
            )
        except client.ApiException as error:
            raise ExperimentError(f"{spec.op} was refused: {_message(error)}") from error
        return str(made["metadata"]["name"])

    def icop(self, name: str) -> ICOp:
        """Return one IC Op.

        Raises:
            ExperimentError: If it does not exist.
        """
        try:
            body = self._call(self._objects.get_namespaced_custom_object, GROUP, VERSION, self.namespace, "icops", name)
        except client.ApiException as error:
            if error.status == 404:
                raise ExperimentError(f"{name} was taken back: there is no such operation any more") from error
            raise
        return ICOp.from_body(body)

    def icops(self, experiment: str | None = None) -> list[ICOp]:
        """Return the IC Ops of an experiment, or of all of them, oldest first."""
        listed = self._call(self._objects.list_namespaced_custom_object, GROUP, VERSION, self.namespace, "icops")
        found = [ICOp.from_body(item) for item in listed["items"]]
        return sorted(
            (each for each in found if experiment in {None, each.spec.experiment_ref}),
            key=lambda each: (
                str(each.metadata.creation_timestamp),
                int(each.metadata.resource_version or 0),  # within a second: they are completed in their order
            ),
        )

    def events(self, name: str) -> list[client.CoreV1Event]:
        """Return the events about the object of this name, as far as the cluster still keeps them."""
        selector = f"involvedObject.name={name}"
        listed = self._call(self._core.list_namespaced_event, self.namespace, field_selector=selector)
        return list(listed.items)

    def worker_pods(self, experiment: str) -> list[client.V1Pod]:
        """Return the worker pods of an experiment by name; those of workers that left are gone."""
        selector = f"{EXPERIMENT_LABEL}={experiment},app.kubernetes.io/component=worker"
        listed = self._call(self._core.list_namespaced_pod, self.namespace, label_selector=selector)
        return sorted(listed.items, key=lambda pod: str(pod.metadata.name))

    def pod_log(self, pod: str, **options: Any) -> Any:
        """Return the log of a pod, with the options of `read_namespaced_pod_log`.

        Raises:
            kubernetes.client.ApiException: If the pod has no such log, for instance because it has not started.
        """
        return self._call(self._core.read_namespaced_pod_log, pod, self.namespace, **options)

    def volume_token(self) -> str:
        """Return a token for the volume service: the workspace's user account's, else the user's own.

        Raises:
            ClusterNotFoundError: If the user may not have one.
        """
        with self._token_lock:
            return self._token if time.monotonic() < self._token_until else self._new_token()

    def _new_token(self) -> str:
        request = client.AuthenticationV1TokenRequest(
            spec=client.V1TokenRequestSpec(audiences=[VOLUME_AUDIENCE], expiration_seconds=_TOKEN_SECONDS)
        )
        try:
            made = self._call(self._core.create_namespaced_service_account_token, USER_ACCOUNT, self.namespace, request)
        except client.ApiException as error:
            own = (self._api.configuration.get_api_key_with_prefix("authorization") or "").removeprefix("Bearer ")
            if error.status == 403 and own:
                return own
            raise ClusterNotFoundError(
                f"no token for the volume service: {_message(error)}; bind yourself to the Role {USER_ACCOUNT} of "
                f"namespace {self.namespace}"
            ) from error
        self._token = made.status.token
        self._token_until = time.monotonic() + _TOKEN_SECONDS / 2
        return self._token

    def free_slots(self) -> int | None:
        """Return how many workers find room now; None if the cluster does not say, or the user may not look."""
        try:
            nodes = self._call(self._core.list_node).items
            pods = self._call(self._core.list_pod_for_all_namespaces).items
        except client.ApiException as error:
            if error.status == 403:
                return None
            raise
        return free_slots(nodes, pods)

    def _call(self, function: Callable[..., Any], *words: Any, missing: str = "", **more: Any) -> Any:
        """Call the API server.

        Raises:
            ClusterNotFoundError: If it does not answer, does not know the user, or `missing` says what a 404 means.
            kubernetes.client.ApiException: For other refusals.
        """
        try:
            return function(*words, **more, _request_timeout=_TIMEOUT)
        except urllib3.exceptions.HTTPError as error:
            server = self._api.configuration.host
            fix = "run `rapidfireai start`" if self.is_local else "check the kubeconfig and your network"
            raise ClusterNotFoundError(f"the cluster at {server} does not answer; {fix}") from error
        except client.ApiException as error:
            if error.status == 404 and missing:
                raise ClusterNotFoundError(missing) from error
            if error.status == 401:
                raise ClusterNotFoundError("the cluster does not know you; renew the kubeconfig's login") from error
            if error.status in _BUSY:
                raise ClusterNotFoundError(f"the cluster is not ready: {_message(error)}") from error
            raise


def _own_program() -> str:
    """Return how this person can call `rapidfireai`: the environment that it is in may not be on PATH."""
    beside = Path(sys.executable).parent / "rapidfireai"
    if shutil.which("rapidfireai") or not beside.exists():
        return "rapidfireai"
    here = Path.cwd()
    return str(beside.relative_to(here) if beside.is_relative_to(here) else beside)


def _message(error: client.ApiException) -> str:
    """Return the API server's own sentence."""
    try:
        return str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        return f"{error.status} {error.reason}"
