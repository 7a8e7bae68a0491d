"""A day on the local cluster: what people do with it, step by step, each in their own or a component's name.

Rights are judged by it: each is used in a step that `rights.py` names. Two keys are planted that nobody may find again.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import yaml
from tests.security import leaks
from tests.security.manifests import DAY, FAILS, SHARDS
from tests.support.audited import AuditedControlPlane, Use, uses
from tests.support.chat_server import ChatServer
from tests.support.waiting import again_and_again, wait_for

from rapidfireai.cluster.local import LocalCluster

if TYPE_CHECKING:
    from rapidfireai import Experiment

API_KEY = "planted-7f3a9c-written-into-a-config"
HUB_TOKEN = "planted-b81e02-kept-in-a-secret"
SECRETS = (API_KEY, HUB_TOKEN)
OPERATOR, WORKER = "rapidfire-system:rapidfire-operator", "default:rapidfire-worker"
VOLUME, USER = "default:rapidfire-volume", "default:rapidfire-user"
API = "/apis/rapidfire.ai/v1alpha1/namespaces/default"
MERGE = {"Content-Type": "application/merge-patch+json"}
ROWS = 48
PATIENCE = 180.0


def preprocess(batch: dict[str, list[Any]], rag: Any, prompt_manager: Any) -> dict[str, list[Any]]:
    return {**batch, "prompts": [[{"role": "user", "content": each}] for each in batch["question"]]}


def compute_metrics(batch: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    right = sum(said == answer for said, answer in zip(batch["generated_text"], batch["answer"], strict=True))
    return {"Accuracy": {"value": right / len(batch["answer"]), "is_algebraic": True, "value_range": (0, 1)}}


def questions(count: int = ROWS) -> list[dict[str, str]]:
    return [{"question": f"What is the square of {n}", "answer": str(n * n)} for n in range(count)]


def says(text: str) -> str:
    number = int(text.rpartition(" ")[2])
    return str(number * number if number % 3 else 0)


@dataclass
class Day:
    """The cluster, and what is done on it.

    Attributes:
        local: The cluster.
        plane: Its control plane, which keeps the audit log.
        directory: For files of the people.
        server: The API that experiments ask.
        spans: When each step began and ended.
        told: What people were shown, by what showed it.
        resources: What every object but Secrets was at some moments, by what it is and when.
    """

    local: LocalCluster
    plane: AuditedControlPlane
    directory: Path
    server: ChatServer
    admin: httpx.Client
    spans: dict[str, tuple[float, float]] = field(default_factory=dict)
    told: dict[str, str] = field(default_factory=dict)
    resources: dict[str, bytes] = field(default_factory=dict)

    # What everybody needs.

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Remember when a step began and ended."""
        begin = time.time()
        yield
        self.spans[name] = (begin, time.time())

    def uses(self, account: str, step: str = "") -> Iterator[Use]:
        """Yield what an account asked for in a step, or ever."""
        begin, end = self.spans[step] if step else (0.0, time.time())
        for use in uses(self.plane.audit_log):
            if use.account == account and begin <= use.moment <= end:
                yield use

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object, as an administrator sees it; empty if there is none."""
        answer = self.admin.get(f"{API}/{kind}/{name}")
        return answer.json() if answer.is_success else {}

    def state(self, experiment: str) -> str:
        return str(self.get("experiments", experiment).get("status", {}).get("state", ""))

    def wait(self, what: str, look: Callable[[], Any]) -> Any:
        """Wait, and say how the cluster stands if it does not come."""
        try:
            return wait_for(what, look, PATIENCE)
        except AssertionError as error:
            picture = self.local.kubectl("get", "rfexp,rfrun,icops,jobs,pods,events").stdout
            raise AssertionError(f"{error}\n{picture[-6000:]}") from None

    @property
    def kubeconfig(self) -> Path:
        """Of somebody who is bound to the Role rapidfire-user."""
        path = self.directory / "user.kubeconfig"
        if not path.exists():
            answer = self.local.kubectl("create", "token", "rapidfire-user", "--namespace", "default")
            assert answer.returncode == 0, answer.stderr
            cluster = {"server": self.plane.server, "certificate-authority": str(self.plane.pki / "ca.crt")}
            context = {"cluster": "c", "user": "u", "namespace": "default"}
            config = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": cluster}],
                "users": [{"name": "u", "user": {"token": answer.stdout.strip()}}],
                "contexts": [{"name": "x", "context": context}],
                "current-context": "x",
            }
            path.write_text(yaml.safe_dump(config))
        return path

    @property
    def token(self) -> str:
        """The user's."""
        return str(yaml.safe_load(self.kubeconfig.read_text())["users"][0]["user"]["token"])

    def kubectl(self, *words: str, stdin: str = "") -> str:
        """Run kubectl as the user."""
        answer = subprocess.run(
            [str(self.plane.binary), "kubectl", "--kubeconfig", str(self.kubeconfig), *words],
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )
        assert answer.returncode == 0, f"kubectl {' '.join(words)}: {answer.stderr}"
        self.told[f"kubectl {' '.join(words)}"] = answer.stdout + answer.stderr
        return answer.stdout

    def watch(self, kind: str) -> None:
        """Run `kubectl get KIND --watch` until the API server has heard of it."""
        command = [str(self.plane.binary), "kubectl", "--kubeconfig", str(self.kubeconfig), "get", kind, "--watch"]
        begin = time.time()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        plural = kind.split(".", maxsplit=1)[0]
        try:
            self.wait(
                f"watch of {kind}",
                lambda: any(
                    use.right.verb == "watch" and use.right.resource == plural and use.moment >= begin
                    for use in self.uses(USER)
                ),
            )
        finally:
            process.kill()
            process.wait(10)

    # The steps.

    def sdk(self) -> None:
        """`run_evals` from Python, with an API key written into the config, a clone, and the results."""
        from datasets import Dataset

        from rapidfireai import Experiment
        from rapidfireai.automl import List, RFGridSearch, RFOpenAIAPIModelConfig

        api = RFOpenAIAPIModelConfig(
            client_config={"base_url": self.server.url, "api_key": API_KEY},
            model_config={"model": "function"},
            rpm_limit=60_000,
            tpm_limit=60_000_000,
        )
        config = {
            "openai_config": api,
            "batch_size": List([3, 4]),
            "preprocess_fn": preprocess,
            "compute_metrics_fn": compute_metrics,
        }
        with Experiment("sdk", "evals", self.directory / "sdk", kubeconfig=self.kubeconfig) as experiment:
            results = experiment.run_evals(
                RFGridSearch(config), Dataset.from_list(questions()), num_shards=SHARDS, num_actors=1
            )
            assert sorted(results) == [1, 2]
            self.told["run_evals"] = repr(results)
            self.told["get_runs_info"] = experiment.get_runs_info().to_string()
            self.told["get_results"] = experiment.get_results().to_string()
            experiment.end()

    def apply(self) -> None:
        """`kubectl apply` of an experiment with data on a claim of its own, twice, and the wait for its acceptance."""
        manifest = self.directory / "day.yaml"
        manifest.write_text(DAY.replace("URL", self.server.url))
        self.server.gate.clear()
        before = len(self.server.asked)
        self.kubectl("apply", "--filename", str(manifest))
        self.kubectl("wait", "rfexp/day", "--for=condition=Accepted", "--timeout=120s")
        self.wait("requests of the day's worker", lambda: len(self.server.asked) > before)
        manifest.write_text(manifest.read_text().replace("{name: day}", "{name: day, labels: {by: kubectl}}"))
        self.kubectl("apply", "--filename", str(manifest))

    def look(self) -> None:
        """What people look at: `kubectl get`, `--watch`, `describe`, `logs`."""
        for kind in ("rfexp", "rfrun", "icops", "pods", "jobs", "leases", "events"):
            self.kubectl("get", kind)
        for kind in ("experiments.rapidfire.ai", "runs.rapidfire.ai", "icops.rapidfire.ai", "pods", "jobs.batch"):
            self.watch(kind)
        pod = self.kubectl("get", "pods", "--selector=rapidfire.ai/experiment=day", "--output=name").split()[0]
        self.kubectl("describe", "rfexp", "day")
        self.kubectl("describe", "rfrun", "day-r1")
        self.kubectl("get", pod, "--output=yaml")
        self.kubectl("logs", pod)

    def gateway(self) -> None:
        """The gateway's pages about an experiment: its runs, workers, events, logs and live changes."""
        self.keep("while a worker is there")
        headers = {"Authorization": f"Bearer {self.token}"}
        base = f"{self.local.gateway_url}/api/v1/namespaces/default"
        with httpx.Client(headers=headers, trust_env=False, timeout=60) as http:
            for name in ("day", "sdk"):
                for page in ("", "/runs", "/icops", "/workers", "/events", "/logs"):
                    self._show(http, f"{base}/experiments/{name}{page}")
                self._show(http, f"{base}/runs/{name}-r1")
                self._show(http, f"{base}/runs/{name}-r1/metrics")
            with http.stream("GET", f"{base}/experiments/day/changes") as stream:
                self.told["changes"] = next(stream.iter_text())
        with httpx.Client(trust_env=False, timeout=60, follow_redirects=True) as browser:
            link = httpx.post(f"{self.local.gateway_url}/api/v1/login-links", headers=headers, trust_env=False).json()
            self._show(browser, link["url"])
            self._show(browser, f"{self.local.dashboard_url}/experiments/default/day")

    def keep(self, moment: str) -> None:
        """Remember what every object but Secrets is now."""
        found = leaks.resources(self.admin)
        self.resources |= {f"{name} {moment}": body for name, body in found if not name.startswith("secrets ")}

    def _show(self, http: httpx.Client, url: str) -> None:
        answer = http.get(url)
        assert answer.status_code in {200, 404}, f"{url}: {answer.status_code} {answer.text[:500]}"
        self.told[f"GET {url}"] = answer.text

    def steer(self) -> None:
        """Orders by patch, from Python and as IC Ops, more workers and fewer, while one is under way; then all end."""
        self.kubectl("patch", "rfrun", "day-r3", "--type=merge", "--patch", '{"spec":{"desiredState":"Stopped"}}')
        with self.attached("day") as experiment:
            experiment.resume(3)
        clone = {"patch": {"batch_size": 8}, "warmStart": False}
        clone_made = self.icop(op="CloneModify", runs=["day-r1"], clone=clone)
        gone = self.icop(op="Stop", runs=["day-r3"], ttlSecondsAfterComplete=0)
        self.wait("end of the record", lambda: not self.get("icops", gone))
        self.wait("clone", lambda: self.get("icops", clone_made)["status"]["results"][0].get("created"))
        self.kubectl("scale", "rfexp/day", "--replicas=2")
        self.wait("second slot", lambda: self.job("day-w-1"))
        self.kubectl("scale", "rfexp/day", "--replicas=1", "--current-replicas=2")
        self.wait("end of the second slot", lambda: not self.job("day-w-1"))
        self.server.gate.set()
        self.wait("end of the day", lambda: self.state("day") in {"Succeeded", "Failed", "Stopped"})

    def attached(self, name: str) -> Experiment:
        """An experiment as the SDK goes back to it."""
        from rapidfireai import Experiment

        return Experiment.attach(name, self.directory / "sdk", kubeconfig=self.kubeconfig)

    def icop(self, **spec: Any) -> str:
        body = {
            "apiVersion": "rapidfire.ai/v1alpha1",
            "kind": "ICOp",
            "metadata": {"generateName": "day-op-", "labels": {"rapidfire.ai/experiment": "day"}},
            "spec": {"experimentRef": "day", **spec},
        }
        made = self.kubectl("create", "--filename", "-", "--output=name", stdin=json.dumps(body))
        return made.strip().partition("/")[2]

    def job(self, name: str) -> bool:
        return self.admin.get(f"/apis/batch/v1/namespaces/default/jobs/{name}").is_success

    def fail(self) -> None:
        """A fit whose own code prints its environment and fails with the token in its words."""
        self.kubectl("apply", "--filename", "-", stdin=FAILS)
        pod = self.wait("worker of the fit", lambda: self.running("fails"))
        log = self.directory / "fails.log"
        command = [str(self.plane.binary), "kubectl", "--kubeconfig", str(self.kubeconfig), "logs", "--follow", pod]
        with log.open("wb") as out, subprocess.Popen(command, stdout=out, stderr=out) as follower:
            try:
                self.wait("failure", lambda: self.state("fails") == "Failed")
                follower.wait(PATIENCE)  # the worker leaves when there is nothing more to do
            finally:
                follower.kill()
        self.told["why"] = json.dumps(self.get("runs", "fails-r1"))
        self.told["log of the fit"] = log.read_text()

    def running(self, experiment: str) -> str:
        """The name of a worker's pod that runs, if there is one."""
        running = (each for each in self.pods(experiment) if each["status"]["phase"] == "Running")
        return next((str(each["metadata"]["name"]) for each in running), "")

    def pods(self, experiment: str) -> list[dict[str, Any]]:
        """The pods of an experiment's workers."""
        selector = {"labelSelector": f"rapidfire.ai/experiment={experiment}"}
        return list(self.admin.get("/api/v1/namespaces/default/pods", params=selector).json()["items"])

    def clean(self) -> None:
        """Runs, records and experiments are deleted, by people and by an experiment's own time to live."""
        self.keep("before all is deleted")
        self.kubectl("delete", "rfrun", "day-r2", "--wait=false")
        records = self.kubectl("get", "icops", "--output=name").split()
        self.kubectl("delete", records[0], "--wait=false")
        self.kubectl("delete", "rfexp", "day", "--wait=false")
        self.wait("end of the experiment", lambda: not self.get("experiments", "day"))
        ttl = '{"spec":{"ttlSecondsAfterFinished":0}}'
        self.kubectl("patch", "rfexp", "fails", "--type=merge", "--patch", ttl)
        self.wait("end of the finished experiment", lambda: not self.get("experiments", "fails"))

    @contextmanager
    def somebody_labels(self) -> Iterator[None]:
        """Let somebody else change every run and experiment all the time, until the operator has met that twice."""
        numbers = itertools.count(1)

        def label() -> bool:
            number = next(numbers)
            body = {"metadata": {"annotations": {"seen": str(number)}}}
            for kind in ("experiments", "runs"):
                for each in self.admin.get(f"{API}/{kind}").json()["items"]:
                    self.admin.patch(f"{API}/{kind}/{each['metadata']['name']}", json=body, headers=MERGE)
            return number % 20 == 0 and self.met("experiments") and self.met("runs")

        with again_and_again(label, 0.02):
            yield

    def met(self, kind: str) -> bool:
        """Whether the operator has read an object anew because it had changed under its hands."""
        return any(use.right.verb == "get" and use.right.resource == kind for use in self.uses(OPERATOR))
