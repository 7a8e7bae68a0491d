"""Experiments on a local cluster of the benchmark's own, and a trace of everything that was to be seen of them."""

from __future__ import annotations

import json
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
from kubernetes import client, watch

from rapidfireai.api import GROUP, VERSION, Run
from rapidfireai.cluster.local import LocalCluster
from rapidfireai.connection import Connection
from rapidfireai.kube import connect_sync

NAMESPACE = "default"
_WORKER = "rapidfireai_worker"
_SAMPLE_SECONDS = 0.1
_LOG_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Grant:
    """An assignment, as the operator wrote it.

    Attributes:
        at: When the operator decided on it, in seconds since the epoch.
    """

    run: str
    attempt: int
    task: str
    chunk: int
    process: str
    at: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a run's log on the volume."""

    run: str
    kind: str
    step: int
    time: float
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Event:
    """A line of a worker's log: an assignment was begun, or is over and committed."""

    event: str
    run: str
    task: str
    chunk: int
    attempt: int
    time: float


@dataclass(frozen=True, slots=True)
class Sample:
    """What a worker's process had used at a time: seconds of CPU, and bytes of memory at the most."""

    process: int
    time: float
    cpu: float
    peak: int


@dataclass
class Trace:
    """What was seen of one experiment.

    Attributes:
        asked: When it was created.
        finished: When its last run had succeeded.
    """

    asked: float = 0.0
    finished: float = 0.0
    grants: dict[tuple[str, int], Grant] = field(default_factory=dict)
    lines: list[Line] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)

    @property
    def peak(self) -> int:
        """The most memory that a worker's process had, in bytes."""
        return max(sample.peak for sample in self.samples)

    def cpu_at(self, when: float) -> float:
        """Return the CPU seconds that the only worker had used at a time."""
        before = [sample for sample in self.samples if sample.time <= when]
        return before[-1].cpu if before else 0.0


class BenchCluster:
    """A local cluster in a directory of its own.

    Args:
        home: Its directory; nothing may be in it.
    """

    def __init__(self, home: Path) -> None:
        self._local = LocalCluster(home)
        self._home = home

    @property
    def volume(self) -> Path:
        """The directory that is the workers' volume."""
        return self._local.volume

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start it, and remove it at the end."""
        try:
            self._local.start()
            while not all(part.ready for part in self._local.status().parts):  # MLflow is not waited for by others
                time.sleep(1)
            self._connection = Connection(NAMESPACE, self._local.kubeconfig)
            yield
        finally:
            self._local.purge()

    def uri(self, path: Path) -> str:
        """Return the URI of a file of the volume."""
        return f"pvc://{self._connection.workspace().claim_name}/{path.relative_to(self.volume)}"

    def run(self, name: str, spec: Mapping[str, Any], during: Callable[[Trace], None] = lambda trace: None) -> Trace:
        """Run an experiment to its end, on an idle cluster.

        Args:
            name: The experiment's name.
            spec: Its spec.
            during: Called once it was created, with what is being recorded.

        Raises:
            RuntimeError: If a run does not succeed.
        """
        trace = Trace()
        with self._recorded(name, trace):
            trace.asked = time.time()
            made = self._connection.create_experiment(name, spec)
            during(trace)
            while not self._succeeded(name):
                time.sleep(0.05)
            trace.finished = time.time()
            trace.lines = list(self._lines(made.metadata.uid, name))
            self._let_workers_leave(name)
        self._connection.delete_experiment(name)
        return trace

    def renew_worker(self, name: str) -> float:
        """Let the experiment's only worker leave and have a new one; return when the new one was asked for."""
        self._let_workers_leave(name)
        asked = time.time()
        self._connection.scale(name, 1)
        return asked

    def committed(self, name: str) -> int:
        """Return the step that the experiment's first run has committed."""
        runs = self._connection.runs(name)
        progress = runs[0].status.progress if runs else None
        return progress.checkpoint.step if progress and progress.checkpoint else 0

    def _succeeded(self, name: str) -> bool:
        experiment = self._connection.experiment(name)
        if experiment.status.state in {"Failed", "Refused", "Stopped"}:
            raise RuntimeError(f"{name}: {[condition.message for condition in experiment.status.conditions]}")
        return experiment.status.state == "Succeeded"

    def _let_workers_leave(self, name: str) -> None:
        self._connection.scale(name, 0)
        while self._connection.worker_pods(name):
            time.sleep(0.05)

    def _lines(self, uid: str, name: str) -> Iterator[Line]:
        for run in self._connection.runs(name):
            log = self.volume / "experiments" / uid / "runs" / run.metadata.uid / "logs" / "metrics.jsonl"
            for text in log.read_text().splitlines():
                line = json.loads(text)
                yield Line(run.metadata.name, line["kind"], line["step"], line["time"], line["values"])

    @contextmanager
    def _recorded(self, name: str, trace: Trace) -> Iterator[None]:
        """Watch the experiment's runs, its workers' processes and their logs."""
        over = threading.Event()
        watching = threading.Thread(target=self._watch, args=(name, trace, over), daemon=True)
        sampling = threading.Thread(target=self._sample, args=(name, trace, over), daemon=True)
        for thread in (watching, sampling):
            thread.start()
        try:
            yield
        finally:
            over.set()
            sampling.join()
            trace.events.sort(key=lambda event: event.time)

    def _watch(self, name: str, trace: Trace, over: threading.Event) -> None:
        objects = client.CustomObjectsApi(connect_sync(self._local.kubeconfig))
        selector = f"rapidfire.ai/experiment={name}"
        stream = watch.Watch().stream(
            objects.list_namespaced_custom_object, GROUP, VERSION, NAMESPACE, "runs", label_selector=selector
        )
        for seen in stream:
            if over.is_set():
                return
            run = Run.from_body(seen["object"])
            given = run.status.assignment
            if given is not None:
                grant = Grant(
                    run.metadata.name, given.attempt, given.task, given.chunk, given.process, given.granted_at
                )
                trace.grants[grant.run, grant.attempt] = grant

    def _sample(self, name: str, trace: Trace, over: threading.Event) -> None:
        worker: psutil.Process | None = None
        logs: list[tuple[subprocess.Popen[bytes], Path]] = []
        while not over.wait(_SAMPLE_SECONDS):
            try:
                if worker is None or not worker.is_running():
                    worker = self._find_worker(name)
                    if worker is not None:
                        logs.append(self._follow_log(worker.environ()["POD_NAME"], len(logs)))
                if worker is not None:
                    trace.samples.append(_sampled(worker))
            except psutil.Error:  # it has just ended: the next look finds the one after it
                worker = None
        for following, file in logs:
            following.wait(_LOG_SECONDS)  # its pod is gone
            trace.events += _events(file)

    def _find_worker(self, name: str) -> psutil.Process | None:
        for process in psutil.process_iter():
            try:
                is_worker = _WORKER in process.cmdline() and self._local.owns(process)
                if is_worker and process.environ().get("RAPIDFIRE_EXPERIMENT") == name:
                    return process
            except psutil.Error:  # another user's, or gone
                continue
        return None

    def _follow_log(self, pod: str, number: int) -> tuple[subprocess.Popen[bytes], Path]:
        file = self._home / f"{pod}-{number}.log"
        words = [self._local.binary, "kubectl", "--kubeconfig", self._local.kubeconfig, "logs", "--follow", pod]
        with file.open("wb") as out:
            return subprocess.Popen([str(word) for word in words], stdout=out, stderr=subprocess.DEVNULL), file


def _sampled(process: psutil.Process) -> Sample:
    times = process.cpu_times()
    status = Path(f"/proc/{process.pid}/status").read_text()
    peak = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")), 0)
    return Sample(process.pid, time.time(), times.user + times.system, peak * 1024)


def _events(file: Path) -> Iterator[Event]:
    for text in file.read_text().splitlines():
        try:
            line = json.loads(text)
        except ValueError:  # of a library that writes to the terminal by itself
            continue
        if line.get("event") in {"begun", "ended"} and "task" in line:
            when = datetime.fromisoformat(line["timestamp"]).timestamp()
            yield Event(line["event"], line["run"], line["task"], line["chunk"], line["attempt"], when)
