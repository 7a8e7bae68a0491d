"""How soon an IC Op acts: from its acceptance to the run's status, and from a stop at a boundary to what comes next.

`python -m benchmarks.icops` starts a control plane and an operator of its own; the workers only pretend to compute. The
figures go to `benchmarks/results/icops.md`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kubernetes import aio
from kubernetes.aio.watch import Watch
from tests.operator.builders import condition, icop
from tests.operator.harness import log_in_as_operator
from tests.operator.simulated import Deed, Node

from benchmarks.many_runs import NAME, ROOT, clients, machine, manifest, operator, until
from rapidfireai.api.base import GROUP, VERSION
from rapidfireai.cluster.binary import find_binary
from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai_operator.adapters.kubernetes import Api
from rapidfireai_operator.adapters.metrics import Metrics

RESULT = ROOT / "benchmarks" / "results" / "icops.md"
OPERATIONS = 200
BOUNDARIES = 50
LAST_CHUNK = 3
"""In it, a run may end before it is stopped."""
RUNS = 300
WORKERS = 4
CHUNK_SECONDS = 1.0
DEADLINE = 120.0
Body = dict[str, Any]

HEADER = """# IC Ops

`python -m benchmarks.icops` on {machine}, control plane, operator, simulated workers and benchmark on the same cores,
with whatever else ran there (load average {load:.0f}); one experiment of {runs} runs, {workers} workers, chunks of
{chunk} s. One operation at a time, {operations} of them: Stop and Resume take turns. All moments are those at which a
watch of the API server shows them; the operation begins with the answer to its creation.

- visible: from the API server's acceptance of the ICOp to the run's status that says so (Stopping or Stopped, or not)
- complete: from the same moment to the ICOp's `Complete`
- next begins: a run that was asked to stop commits at its boundary; from that commit until the same worker says that it
  has begun with another run
- next granted: from the same commit until the operator has given that worker one more chunk to hold

| figure | count | p50 | p99 | longest |
| --- | --- | --- | --- | --- |
"""


@dataclass(slots=True)
class Seen:
    """What the watches showed: the newest version of every run, and when each ICOp was complete."""

    runs: dict[str, Body] = field(default_factory=dict)
    completed: dict[str, float] = field(default_factory=dict)
    moment: float = 0.0
    changed: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def follow(self, client: aio.client.ApiClient, namespace: str, plural: str, since: str) -> None:
        """Watch one kind for ever."""
        stream = Watch().stream(
            aio.client.CustomObjectsApi(client).list_namespaced_custom_object,
            GROUP,
            VERSION,
            namespace,
            plural,
            resource_version=since,
            _request_timeout=DEADLINE,
        )
        async for event in stream:
            body, self.moment = event["object"], time.monotonic()
            if plural == "runs":
                self.runs[body["metadata"]["name"]] = body
            elif condition(body, "Complete").get("status") == "True":
                self.completed.setdefault(body["metadata"]["name"], self.moment)
            async with self.changed:
                self.changed.notify_all()

    async def until(self, what: str, look: Callable[..., bool], *words: Any) -> float:
        """Return when a watch first showed what is waited for."""
        async with self.changed:
            try:
                async with asyncio.timeout(DEADLINE):
                    while not look(*words):
                        await self.changed.wait()
            except TimeoutError as error:
                raise TimeoutError(f"not within {DEADLINE:.0f} s: {what} {words}") from error
            return self.moment

    def stopping(self, run: str) -> bool:
        """Return whether a run's status says that it stops or has stopped."""
        return str(condition(self.runs[run], "Progressing").get("reason")) in {"Stopping", "Stopped"}

    def going(self, run: str) -> bool:
        """Return whether a run's status says that it goes on."""
        return not self.stopping(run)

    def is_complete(self, name: str) -> bool:
        """Return whether an ICOp is complete."""
        return name in self.completed

    def has_committed(self, run: str) -> bool:
        """Return whether the worker has sent its final report of what it holds, or the operator has taken it up."""
        return not _begun(self.runs[run])

    def computed(self) -> list[str]:
        """Return the runs that a worker computes now and that nobody stops, the furthest from their end first."""
        names = [
            name
            for name, run in self.runs.items()
            if _begun(run) and not self.stopping(name) and _given(run)["chunk"] < LAST_CHUNK
        ]
        return sorted(names, key=lambda name: (self.runs[name]["status"]["assignment"]["chunk"], name))

    def waiting(self) -> list[str]:
        """Return the runs that wait for a worker."""
        return [name for name, run in self.runs.items() if _state(run) == "Running" and not _given(run)]

    def has_both(self) -> bool:
        """Return whether some run is computed and some run waits."""
        return bool(self.computed() and self.waiting())

    def held_by(self, worker: str) -> set[str]:
        """Return the runs that a worker holds."""
        return {name for name, run in self.runs.items() if _given(run).get("worker") == worker}

    def computes_other(self, worker: str, than: str) -> bool:
        """Return whether a worker has begun with another run."""
        return any(_begun(self.runs[name]) for name in self.held_by(worker) - {than})

    def holds_other(self, worker: str, than: set[str]) -> bool:
        """Return whether a worker holds a run that it did not hold."""
        return bool(self.held_by(worker) - than)


def _state(run: Body) -> str:
    return str((run.get("status") or {}).get("state"))


def _given(run: Body) -> Body:
    return (run.get("status") or {}).get("assignment") or {}


def _begun(run: Body) -> bool:
    given, progress = _given(run), (run.get("status") or {}).get("progress") or {}
    return bool(given) and progress.get("attempt") == given["attempt"] and not progress["final"] and given["chunk"] >= 0


@dataclass(slots=True)
class Bench:
    """The measurement: what was seen, by figure, in seconds."""

    api: Api
    namespace: str
    seen: Seen
    figures: dict[str, list[float]] = field(default_factory=dict)

    async def operate(self, name: str, op: str, run: str) -> float:
        """Make an ICOp; return when the API server accepted it."""
        await self.api.create("icops", self.namespace, icop(name, op, [run], NAME))
        return time.monotonic()

    async def alternate(self, count: int) -> None:
        """Stop and resume runs in turn: now one that is computed, now one that waits."""
        for number in range(count // 2):
            await self.seen.until("work", self.seen.has_both)
            kind = "computed" if number % 2 else "waiting"
            run = (self.seen.computed() if number % 2 else self.seen.waiting())[0]
            for op in ("Stop", "Resume"):
                name = f"{op.lower()}-{number}"
                accepted = await self.operate(name, op, run)
                look = self.seen.stopping if op == "Stop" else self.seen.going
                shown = await self.seen.until(op, look, run)
                await self.seen.until("complete", self.seen.is_complete, name)
                self.note("visible, all", shown - accepted)
                self.note(f"visible, {op} of a {kind} run", shown - accepted)
                self.note("complete, all", self.seen.completed[name] - accepted)

    async def boundaries(self, count: int) -> None:
        """Stop runs that are computed, and see what their workers do after the boundary."""
        for number in range(count):
            await self.seen.until("work", self.seen.has_both)
            run = self.seen.computed()[0]
            worker = self.seen.runs[run]["status"]["assignment"]["worker"]
            await self.operate(f"boundary-{number}", "Stop", run)
            committed = await self.seen.until("the commit", self.seen.has_committed, run)
            held = self.seen.held_by(worker) | {run}
            begun = await self.seen.until("the next run begins", self.seen.computes_other, worker, run)
            self.note("next begins", begun - committed)
            granted = await self.seen.until("a chunk is granted", self.seen.holds_other, worker, held)
            self.note("next granted", granted - committed)

    def note(self, figure: str, seconds: float) -> None:
        """Keep one measurement."""
        self.figures.setdefault(figure, []).append(max(0.0, seconds))
        if len(self.figures[figure]) % 50 == 0:
            print(row(figure, self.figures[figure]), flush=True)


async def measure(plane: ControlPlane, home: Path) -> dict[str, list[float]]:
    """Measure in a namespace of its own."""
    namespace = "icops"
    plane.kubectl("create", "namespace", namespace)
    account = log_in_as_operator(plane, namespace, home)
    async with clients(plane, 2) as (ours, nodes):
        api = Api(ours, Metrics())
        with operator(plane, namespace, account):
            body = manifest(RUNS)
            body["spec"]["workers"] = {"replicas": WORKERS}
            await api.create("experiments", namespace, body)
            seen = Seen()
            tasks = [
                asyncio.create_task(
                    seen.follow(ours, namespace, plural, str((await api.list(plural, namespace)).version))
                )
                for plural in ("runs", "icops")
            ]
            deed = Deed(seconds=CHUNK_SECONDS)
            node = Node(nodes, namespace, lambda _: deed, room=WORKERS, lease_seconds=30)
            tasks.append(asyncio.create_task(node.run()))
            await until(lambda: len(seen.computed()) >= WORKERS // 2, "runs under way", tasks)
            bench = Bench(api, namespace, seen)
            await bench.alternate(OPERATIONS)
            await bench.boundaries(BOUNDARIES)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    return bench.figures


def row(name: str, seconds: Sequence[float]) -> str:
    """Return one figure as a row of the table."""
    p50, p99 = statistics.median(seconds), statistics.quantiles(seconds, n=100, method="inclusive")[98]
    cells = [name, str(len(seconds)), *(f"{1000 * each:.0f} ms" for each in (p50, p99, max(seconds)))]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Measure, print and write the table."""
    with tempfile.TemporaryDirectory(prefix="rapidfireai-benchmark-") as directory:
        plane = ControlPlane(Path(directory) / "plane", find_binary())
        plane.start()
        try:
            plane.kubectl("apply", "--server-side", "-f", str(ROOT / "crds"))
            plane.kubectl("wait", "--for=condition=Established", "--timeout=30s", "-f", str(ROOT / "crds"))
            (Path(directory) / "account").mkdir()
            figures = asyncio.run(measure(plane, Path(directory) / "account"))
        finally:
            plane.purge()
    rows = [row(name, seconds) for name, seconds in sorted(figures.items())]
    print("\n".join(rows))
    with suppress(FileExistsError):
        RESULT.parent.mkdir()
    header = HEADER.format(
        machine=machine(),
        load=os.getloadavg()[1],
        runs=RUNS,
        workers=WORKERS,
        chunk=CHUNK_SECONDS,
        operations=OPERATIONS,
    )
    RESULT.write_text(header + "\n".join(rows) + "\n")


if __name__ == "__main__":
    main()
