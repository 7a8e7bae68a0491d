"""Evaluations without a cluster: a volume in a folder, the operator's bookkeeping, and a model that is a function."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from rapidfireai.api.run import Checkpoint, Estimate
from rapidfireai_worker.engine import Answered, ChunkControl, ChunkOutcome, DataRef, RunFailure, RunJob
from rapidfireai_worker.evals.engine import EvalEngine, Makers
from rapidfireai_worker.evals.parts import Conversation, Generation, Site
from rapidfireai_worker.layout import Volume

SOURCE = """
import random

import numpy as np


def preprocess(batch, rag, prompt_manager):
    prompts = [[{"role": "user", "content": question}] for question in batch["question"]]
    return {**batch, "prompts": prompts, "drawn": [random.random() + np.random.rand() for _ in prompts]}


def postprocess(batch):
    return {**batch, "said": [text.strip() for text in batch["generated_text"]]}


def score(batch):
    right = [said == answer for said, answer in zip(batch["said"], batch["answer"])]
    return {"Right": {"value": sum(right)}, "Drawn": random.random()}


def together(metrics):
    rows = sum(each["value"] for each in metrics["Samples Processed"])
    right = sum(each["value"] for each in metrics["Right"]) / rows
    drawn = sum(each["value"] for each in metrics["Drawn"])
    return {"Accuracy": {"value": right, "is_algebraic": True, "value_range": (0, 1)}, "Drawn": {"value": drawn}}
"""
WALL_CLOCK = ("Throughput", "Processing Time", "Samples Per Second", "system/query_latency_avg_seconds")
Line = tuple[str, int, int, dict[str, float]]


def config(**more: Any) -> dict[str, Any]:
    """Return a leaf; None takes a key away."""
    leaf = {
        "api_config": {"model_config": {"model": "function"}},
        "batch_size": 4,
        "preprocess_fn": {"$function": "preprocess"},
        "postprocess_fn": {"$function": "postprocess"},
        "compute_metrics_fn": {"$function": "score"},
        "accumulate_metrics_fn": {"$function": "together"},
        **more,
    }
    return {key: value for key, value in leaf.items() if value is not None}


def answer_to(text: str) -> str:
    """What the model says: right for two of three questions."""
    number = int(text.rpartition(" ")[2])
    return f" {number * number if number % 3 else number} "


class Model:
    """A model that is a function of the prompt; faults and times are what tests make of them.

    Attributes:
        fails: How often the row of a question fails before it is answered, by the question's number.
        raises: What asking for a batch raises.
        gate: While it is closed nothing is answered.
        asked: The numbers of the questions of each batch, in the order in which they were asked.
        most_under_way: The most batches that were under way at once.
        cancelled: How many batches were given up.
        told: What each run's generator was made of.
    """

    def __init__(self, in_flight: int = 3, answer: Callable[[str], str] = answer_to) -> None:
        self.in_flight = in_flight
        self.fails: dict[int, int] = {}
        self.raises: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.asked: list[list[int]] = []
        self.most_under_way = 0
        self.cancelled = 0
        self.answered = 0
        self.told: list[tuple[str, Mapping[str, Any], str | None]] = []
        self._answer = answer
        self._pending: list[tuple[Future[list[Generation]], Sequence[Conversation]]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._work, daemon=True).start()

    def generator(self, job_run: str, config: Mapping[str, Any], adapter: str | None) -> Model:
        self.told.append((job_run, config, adapter))
        return self

    def submit(self, conversations: Sequence[Conversation]) -> Future[list[Generation]]:
        if self.raises is not None:
            raise self.raises
        future: Future[list[Generation]] = Future()
        with self._changed:
            self.asked.append([int(each[-1]["content"].rpartition(" ")[2]) for each in conversations])
            self._pending.append((future, conversations))
            self.most_under_way = max(self.most_under_way, len(self._pending))
            self._changed.notify_all()
        return future

    def _work(self) -> None:
        """Answer the youngest batch first: batches never end in the order in which they were asked."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending)
                self._changed.wait_for(lambda: len(self._pending) >= self.in_flight, timeout=0.02)
            self.gate.wait()
            with self._changed:
                if not self._pending:
                    continue
                future, conversations = self._pending.pop()
            if future.set_running_or_notify_cancel():
                future.set_result([self._generation(each) for each in conversations])
            else:
                self.cancelled += 1

    def _generation(self, conversation: Conversation) -> Generation:
        text = str(conversation[-1]["content"])
        number = int(text.rpartition(" ")[2])
        self.answered += 1
        if self.fails.get(number, 0) > 0:
            self.fails[number] -= 1
            return Generation(None, error="the server said 503 five times", prompt_tokens=2, seconds=0.5)
        return Generation(self._answer(text), prompt_tokens=5, completion_tokens=3, seconds=0.25)

    def used_bytes(self) -> int:
        return 1000

    def close(self) -> None:
        pass


@dataclasses.dataclass
class Trial:
    """What steers one attempt, and what it said."""

    stop_after: int = 0
    discard_after: int = 0
    batches: list[Answered] = dataclasses.field(default_factory=list)
    reports: list[tuple[int, dict[str, float]]] = dataclasses.field(default_factory=list)
    estimates: list[Mapping[str, Estimate]] = dataclasses.field(default_factory=list)
    park: threading.Event = dataclasses.field(default_factory=threading.Event)
    discard: threading.Event = dataclasses.field(default_factory=threading.Event)

    def answered(self, batch: Answered) -> None:
        self.batches.append(batch)
        if len(self.batches) == self.stop_after:
            self.park.set()
        if len(self.batches) == self.discard_after:
            self.discard.set()


@dataclasses.dataclass
class EvalLab:
    """One experiment's evaluations on one volume, and what the operator would keep of them.

    Attributes:
        root: Holds the volume and `eval.jsonl`.
        rows: How many questions there are.
    """

    root: Path
    rows: int = 30
    shards: int = 3
    seed: int = 42
    source: str | None = SOURCE
    adapter: Checkpoint | None = None
    checkpoints: dict[str, Checkpoint] = dataclasses.field(default_factory=dict)
    attempts: dict[str, int] = dataclasses.field(default_factory=dict)
    lines: dict[str, list[Line]] = dataclasses.field(default_factory=dict)
    adoptions: int = 0

    def __post_init__(self) -> None:
        questions = [{"question": f"What is the square of {n}", "answer": str(n * n)} for n in range(self.rows)]
        self.write(questions)

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        (self.root / "eval.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    @property
    def volume(self) -> Volume:
        return Volume(self.root / "volume")

    def engine(self, model: Model | None = None) -> EvalEngine:
        """Return the engine of a new process."""
        chosen = model or Model()

        def make(kind: str, site: Site) -> Model:
            return chosen

        return EvalEngine(self.volume, {"data": self.root}, 1, makers=Makers(make))

    def job(self, name: str, leaf: Mapping[str, Any]) -> RunJob:
        self.attempts[name] = self.attempts.get(name, 0) + 1
        return RunJob(
            namespace="lab",
            experiment="lab",
            experiment_uid="lab-uid",
            run=name,
            run_uid=f"{name}-uid{'-again' * self.adoptions}",
            volume_uid=f"{name}-uid",
            attempt=self.attempts[name],
            config=leaf,
            seed=self.seed,
            mode="evals",
            shards=self.shards,
            eval=DataRef("pvc://data/eval.jsonl"),
            adapter=self.adapter,
            checkpoint=self.checkpoints.get(name),
            source=self.source,
        )

    def step(self, name: str) -> int:
        checkpoint = self.checkpoints.get(name)
        return checkpoint.step if checkpoint else 0

    def next_shard(self, engine: EvalEngine, name: str, leaf: Mapping[str, Any], trial: Trial) -> ChunkOutcome:
        """Let an engine answer the rest of the next shard; nothing of it is durable yet."""
        job = self.job(name, leaf)
        prepared = engine.prepare(job)
        shard = next(i for i, boundary in enumerate(prepared.boundaries) if boundary > self.step(name))
        control = ChunkControl(
            park=trial.park,
            discard=trial.discard,
            report=lambda step, values: trial.reports.append((step, dict(values))),
            log=lambda kind, number, step, values: self._log(name, (kind, number, step, dict(values))),
            estimate=trial.estimates.append,
            answered=trial.answered,
        )
        return engine.run_chunk(job, shard, control)

    def commit(
        self, engine: EvalEngine, name: str, leaf: Mapping[str, Any], trial: Trial | None = None
    ) -> ChunkOutcome:
        """Answer the rest of the next shard and commit it."""
        outcome = self.next_shard(engine, name, leaf, trial or Trial())
        self.checkpoints[name] = outcome.persist()
        assert self.checkpoints[name].step == outcome.step
        return outcome

    def finish(self, engine: EvalEngine, name: str, leaf: Mapping[str, Any]) -> None:
        while self.step(name) < self.rows:
            self.commit(engine, name, leaf)

    def failure(self, leaf: Mapping[str, Any], model: Model | None = None, name: str = "r1") -> RunFailure:
        """Return how the run fails."""
        try:
            self.commit(self.engine(model), name, leaf)
        except RunFailure as failure:
            return failure
        raise AssertionError("it did not fail")

    def _log(self, name: str, line: Line) -> None:
        known = {each[:2] for each in self.lines.setdefault(name, [])}
        if line[:2] not in known:
            self.lines[name].append(line)

    # What is on the volume.

    def directories(self, name: str) -> list[Path]:
        """Return the directories of the committed chain, oldest first."""
        found: list[Path] = []
        link: dict[str, str] | None = {"path": self.checkpoints[name].path}
        while link is not None:
            found.insert(0, self.volume.root / link["path"])
            link = json.loads((found[0] / "manifest.json").read_text())["previous"]
        return found

    def all_rows(self, name: str) -> list[dict[str, Any]]:
        """Return every row of every committed shard, in order, those that were answered again more than once."""
        return [
            row for directory in self.directories(name) for row in pq.read_table(directory / "rows.parquet").to_pylist()
        ]

    def cumulative(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.directories(name)[-1] / "cumulative.json").read_text())
        return found

    def picture(self, name: str) -> dict[str, Any]:
        """Return all that came of a run but what depends on the clock."""

        def steady(values: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in values.items() if key not in WALL_CLOCK}

        return {
            "rows": self.all_rows(name),
            "cumulative": steady(self.cumulative(name)),
            "log": [(*line[:3], steady(line[3])) for line in self.lines[name]],
        }
