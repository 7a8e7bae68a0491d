"""How many runs the operator holds: from the manifest to all runs made, and from a commit to what follows from it.

`python -m benchmarks.many_runs [RUNS ...]` starts a control plane and an operator of its own; the workers only pretend
to compute. The figures go to `benchmarks/results/many_runs.md`.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from kubernetes import aio
from kubernetes.aio.watch import Watch
from tests.operator.builders import condition
from tests.operator.harness import OperatorProcess, log_in_as_operator
from tests.operator.simulated import Deed, Node

from rapidfireai.api import ExperimentSpec
from rapidfireai.api.base import API_VERSION, GROUP, VERSION
from rapidfireai.cluster.binary import find_binary
from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.expand import expand
from rapidfireai.kube import connect
from rapidfireai_operator.adapters.kubernetes import Api
from rapidfireai_operator.adapters.metrics import Metrics

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "many_runs.md"
NAME = "many"
WORKERS = 4
WARM_UP = 2 * WORKERS
DECISIONS = 200
CHUNK_SECONDS = 0.5
DEADLINE = 1800.0


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured with one number of runs; seconds, unless it says otherwise."""

    runs: int
    expand: float
    create: float
    decisions: list[float]
    cpu: float
    restart: float
    memory_mib: float
    experiment_bytes: int

    def row(self) -> str:
        """Return the figures as a row of the table."""
        p50, p99 = statistics.median(self.decisions), statistics.quantiles(self.decisions, n=100)[98]
        cells = [
            f"{self.runs}",
            f"{self.expand:.2f} s",
            f"{self.create:.1f} s ({self.runs / self.create:.0f} runs/s)",
            f"{1000 * p50:.0f} ms",
            f"{1000 * p99:.0f} ms",
            f"{1000 * self.cpu:.0f} ms",
            f"{self.restart:.1f} s",
            f"{self.memory_mib:.0f} MiB",
            f"{self.experiment_bytes / 1000:.1f} kB",
        ]
        return f"| {' | '.join(cells)} |"


HEADER = """# Many runs in one experiment

`python -m benchmarks.many_runs` on {machine}, control plane, operator, simulated workers and benchmark on the same
cores, with whatever else ran there (load average {load:.0f}); {workers} workers, chunks of {chunk} s, {decisions}
decisions.

- expand: the manifest's configs into the configs of all runs
- create: from the manifest to the last run made and described, on a real API server, without workers
- decision: from a worker's commit to the operator's answer to it, both as a watch of the API server shows them
- CPU: what the operator computed for a decision, progress reports and watches included
- restart: from the start of a new operator process to its first assignment, all runs being there
- memory: the operator's resident set at the end
- status: the size of the Experiment's status

| runs | expand | create | decision p50 | p99 | CPU | restart | memory | status |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
"""


def manifest(runs: int) -> dict[str, Any]:
    """Return an Experiment whose grid makes so many runs, and that has no worker yet."""
    rates = [round(1e-6 * (index + 1), 9) for index in range(runs // 4)]
    config = {
        "model_name": "tiny",
        "peft_config": {"r": {"$list": [4, 8, 16, 32]}, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "training_args": {"learning_rate": {"$list": rates}, "per_device_train_batch_size": 4, "num_train_epochs": 1},
    }
    spec = {
        "configs": [{"trainer": "SFT", "config": config}],
        "data": {"train": {"uri": "hf://owner/rows"}, "eval": {"uri": "hf://owner/rows"}},
        "workers": {"replicas": 0},
    }
    return {"apiVersion": API_VERSION, "kind": "Experiment", "metadata": {"name": NAME}, "spec": spec}


class Decisions:
    """What a watch of the runs shows: how long each commit waited until the operator had taken it up."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.granted: set[float] = set()
        self._committed: dict[tuple[str, int], float] = {}

    async def follow(self, client: aio.client.ApiClient, namespace: str, since: str) -> None:
        """Watch for ever."""
        objects = aio.client.CustomObjectsApi(client)
        # The request alone would take the connection for dead: nothing may happen for a while.
        stream = Watch().stream(
            objects.list_namespaced_custom_object,
            GROUP,
            VERSION,
            namespace,
            "runs",
            resource_version=since,
            _request_timeout=DEADLINE,
        )
        async for event in stream:
            self.see(event["object"], time.monotonic())

    def see(self, run: dict[str, Any], now: float) -> None:
        """Take up one version of a run."""
        status = run.get("status") or {}
        given, progress = status.get("assignment") or {}, status.get("progress") or {}
        key = (run["metadata"]["name"], progress.get("attempt", 0))
        if given:
            self.granted.add(given["grantedAt"])
        if not progress.get("final"):
            return
        if given.get("attempt") == progress["attempt"]:
            self._committed.setdefault(key, now)
        elif (committed := self._committed.pop(key, None)) is not None:
            self.seconds.append(now - committed)


async def measure(plane: ControlPlane, runs: int, home: Path) -> Figures:
    """Measure with one number of runs, in a namespace of its own."""
    namespace = f"runs-{runs}"
    plane.kubectl("create", "namespace", namespace)
    body = manifest(runs)
    began = time.monotonic()
    if len(expand(ExperimentSpec.model_validate(body["spec"]).configs)) != runs:
        raise ValueError(f"{runs} is not a multiple of 4")
    expanded = time.monotonic() - began
    account = log_in_as_operator(plane, namespace, home)
    async with clients(plane, 2) as (ours, nodes):
        api = Api(ours, Metrics())
        with operator(plane, namespace, account) as process:
            created = await create(api, namespace, body)
            decisions = Decisions()
            since = str((await api.list("runs", namespace)).version)
            tasks = [asyncio.create_task(decisions.follow(ours, namespace, since))]
            deed = Deed(seconds=CHUNK_SECONDS)
            node = Node(nodes, namespace, lambda _: deed, room=WORKERS, lease_seconds=30)
            tasks.append(asyncio.create_task(node.run()))
            await api.patch("experiments", namespace, NAME, {"spec": {"workers": {"replicas": WORKERS}}})
            await until(lambda: len(decisions.seconds) >= WARM_UP, "first decisions", tasks)
            before, computed = len(decisions.seconds), cpu(process)
            await until(lambda: len(decisions.seconds) >= before + DECISIONS, "decisions", tasks)
            seen = decisions.seconds[before:]
            computed = (cpu(process) - computed) / len(seen)
            process.kill()
            started = time.time()
            process.start()
            await until(lambda: max(decisions.granted) > started, "assignment after the restart", tasks)
            restart = min(each for each in decisions.granted if each > started) - started
            memory = resident(process)
            status = (await api.get("experiments", namespace, NAME))["status"]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return Figures(runs, expanded, created, seen, computed, restart, memory, len(json.dumps(status)))


async def create(api: Api, namespace: str, body: dict[str, Any]) -> float:
    """Create the experiment; return the seconds until all runs are made and described."""
    began = time.monotonic()
    await api.create("experiments", namespace, body)
    while True:
        seen = await api.get("experiments", namespace, NAME)
        counts = (seen.get("status") or {}).get("runs") or {}
        if condition(seen, "Expanded").get("status") == "True" and counts.get("pending") == counts.get("total"):
            return time.monotonic() - began
        if time.monotonic() - began > DEADLINE:
            raise TimeoutError(f"runs are not made: {seen.get('status')}")
        await asyncio.sleep(0.1)


async def until(look: Any, what: str, tasks: list[asyncio.Task[None]]) -> None:
    """Wait until `look` is true, or say what did not come."""
    deadline = time.monotonic() + DEADLINE
    while not look():
        for task in tasks:
            if task.done():
                task.result()
        if time.monotonic() > deadline:
            raise TimeoutError(f"no {what} within {DEADLINE:.0f} s")
        await asyncio.sleep(0.05)


def wait_for(port: int) -> None:
    """Wait until somebody listens on a port of this machine."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):  # it is not there yet
            return
        time.sleep(0.1)
    raise TimeoutError(f"nobody listens on port {port}")


def resident(process: OperatorProcess) -> float:
    """Return the operator's resident set in MiB."""
    return float(_seen(process).memory_info().rss) / 2**20


def cpu(process: OperatorProcess) -> float:
    """Return the seconds that the operator has computed."""
    times = _seen(process).cpu_times()
    return float(times.user + times.system)


def _seen(process: OperatorProcess) -> psutil.Process:
    if process.process is None:
        raise RuntimeError("the operator does not run")
    return psutil.Process(process.process.pid)


@asynccontextmanager
async def clients(plane: ControlPlane, count: int) -> AsyncIterator[list[aio.client.ApiClient]]:
    """Open clients of the administrator, and close them."""
    opened = [await connect(plane.kubeconfig) for _ in range(count)]
    try:
        yield opened
    finally:
        for each in opened:
            await each.close()


@contextmanager
def operator(plane: ControlPlane, namespace: str, account: Path) -> Iterator[OperatorProcess]:
    """Run an operator; end it however the measurement ends."""
    process = OperatorProcess(plane, namespace, account, RAPIDFIRE_LEASE_SECONDS="30")
    process.start()
    try:
        wait_for(process.health_port)
        yield process
    finally:
        process.kill()


def machine() -> str:
    """Return what it was measured on, in words."""
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{os.cpu_count()} cores of {names[0].partition(':')[2].strip()}" if names else f"{os.cpu_count()} cores"


def main() -> None:
    """Measure, print and write the table."""
    sizes = [int(word) for word in sys.argv[1:]] or [100, 1000, 10_000]
    rows = []
    with tempfile.TemporaryDirectory(prefix="rapidfireai-benchmark-") as directory:
        plane = ControlPlane(Path(directory) / "plane", find_binary())
        plane.start()
        try:
            plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
            plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
            for runs in sizes:
                (Path(directory) / str(runs)).mkdir()
                rows.append(asyncio.run(measure(plane, runs, Path(directory) / str(runs))).row())
                print(rows[-1], flush=True)
        finally:
            plane.purge()
    with suppress(FileExistsError):
        RESULT.parent.mkdir()
    load = os.getloadavg()[2]
    header = HEADER.format(machine=machine(), load=load, workers=WORKERS, chunk=CHUNK_SECONDS, decisions=DECISIONS)
    RESULT.write_text(header + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
