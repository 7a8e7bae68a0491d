"""What side by side costs and saves, against the same configs as plain programs one after another.

`python -m benchmarks.fit` writes benchmarks/results/fit.md and fit.json; README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.support.tiny import write_tiny_model

from benchmarks import figures, report
from benchmarks.cluster import BenchCluster, Trace
from examples import smollm2

PLAIN = Path(__file__).with_name("plain.py")
RESULTS = Path(__file__).with_name("results")
SEED = 42
BATCH = 2
EVAL_ROWS = 4
LORAS = [
    {"r": rank, "lora_alpha": 2 * rank, "target_modules": ["q_proj", "v_proj"], "learning_rate": rate}
    for rank in (8, 32, 16, 64)
    for rate in (1e-4, 1e-3)
]
"""Eight configs; figures with fewer take the first."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    Attributes:
        repetitions: How often both ways are run, the order changing each time.
        configs: How many configs are compared.
        steps: Optimizer steps of each.
        chunks: Chunks of each.
        many: How many configs share a base where memory is measured.
        warm: How many chunks are handed to a warm worker.
        fresh: How many new workers are started for a chunk.
        threads: Threads that a process computes with; a worker has a CPU.
    """

    repetitions: int = 3
    configs: int = 4
    steps: int = 8
    chunks: int = 4
    many: int = 8
    warm: int = 100
    fresh: int = 3
    threads: int = 1


class Benchmark:
    """The measurements, on one cluster with one model.

    Args:
        settings: How much is measured.
        cluster: A cluster that runs.
        model: A model folder on its volume.
        small: A model that trains in milliseconds, on the volume too.
    """

    def __init__(self, settings: Settings, cluster: BenchCluster, model: Path, small: Path) -> None:
        self._settings = settings
        self._cluster = cluster
        self._model = model
        self._small = small
        self._folder = model.parent

    def swapping(self) -> tuple[list[figures.Pass], list[figures.Pass]]:
        """Train the configs both ways, again and again; return the plain passes and ours."""
        plain, ours = [], []
        for number in range(self._settings.repetitions):
            for way in ("plain", "ours") if number % 2 == 0 else ("ours", "plain"):
                _say(f"configs, {way}, {number + 1} of {self._settings.repetitions}")
                if way == "plain":
                    plain.append(self._one_after_another(number))
                else:
                    ours.append(figures.of_chunks(self._side_by_side(f"swap-{number}", self._settings.configs)))
        return plain, ours

    def memory(self) -> dict[int, int]:
        """Return the peak memory of a worker in bytes, with one config and with many."""
        peaks = {}
        for count in (1, self._settings.many):
            _say(f"memory, {count} configs")
            peaks[count] = self._side_by_side(f"memory-{count}", count, steps=2, chunks=2).peak
        return peaks

    def latency(self, model: Path, name: str, warm: int) -> figures.Latency:
        """Return how long it takes from a decision to the first step: on a warm worker, and with a new one."""
        _say(f"latency, {name}")
        fresh = self._settings.fresh
        steps = 1 + fresh + warm
        renewals: list[float] = []

        def renew(trace: Trace) -> None:
            for _ in range(fresh):
                at = self._cluster.committed(name)
                while self._cluster.committed(name) == at:
                    time.sleep(0.02)
                renewals.append(self._cluster.renew_worker(name))

        spec = self._spec(model, 1, steps, steps, evaluate=False)
        return figures.latencies(self._cluster.run(name, spec, renew), renewals)

    def _side_by_side(self, name: str, count: int, steps: int | None = None, chunks: int | None = None) -> Trace:
        wanted = self._settings
        spec = self._spec(self._model, count, steps or wanted.steps, chunks or wanted.chunks, evaluate=True)
        return self._cluster.run(name, spec)

    def _spec(self, model: Path, count: int, steps: int, chunks: int, *, evaluate: bool) -> dict[str, Any]:
        """Return an experiment on one worker, as a YAML user writes it."""
        rows = self._rows(steps)
        names = ("train", "eval") if evaluate else ("train",)
        groups = [
            {
                "trainer": "SFT",
                "config": {
                    "model_name": self._cluster.uri(model),
                    "peft_config": {key: value for key, value in lora.items() if key != "learning_rate"},
                    "training_args": {**_arguments(steps), "learning_rate": lora["learning_rate"]},
                },
            }
            for lora in LORAS[:count]
        ]
        data = {name: {"uri": self._cluster.uri(rows[name])} for name in names}
        return {"seed": SEED, "chunks": chunks, "configs": groups, "data": data, "workers": {"replicas": 1}}

    def _one_after_another(self, number: int) -> figures.Pass:
        begun = time.time()
        programs = []
        for index in range(self._settings.configs):
            folder = self._folder / f"plain-{number}-{index}"
            said = _run_plain(self._plain_spec(index, folder), folder, self._settings.threads)
            programs.append((time.time(), said))
        return figures.of_plain(begun, programs)

    def _plain_spec(self, index: int, folder: Path) -> dict[str, Any]:
        settings, lora = self._settings, dict(LORAS[index])
        rate = lora.pop("learning_rate")
        evaluation = {"eval_strategy": "steps", "eval_steps": settings.steps // settings.chunks}
        return {
            "model": str(self._model),
            "seed": SEED,
            "threads": settings.threads,
            "out": str(folder),
            "peft_params": lora,
            "training_args": {**_arguments(settings.steps), **evaluation, "learning_rate": rate},
            **{name: str(file) for name, file in self._rows(settings.steps).items()},
        }

    def _rows(self, steps: int) -> dict[str, Path]:
        """Return files with as many rows as one epoch of this many steps needs, and with rows to evaluate on."""
        questions = smollm2.questions()
        needed = {"eval": questions[:EVAL_ROWS], "train": [questions[i % len(questions)] for i in range(steps * BATCH)]}
        files = {}
        for name, rows in needed.items():
            files[name] = self._folder / f"{name}-{steps}.jsonl"
            files[name].write_text("".join(json.dumps(_as_chat(row)) + "\n" for row in rows))
        return files


def _arguments(steps: int) -> dict[str, Any]:
    return {
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": EVAL_ROWS,
        "max_steps": steps,
        "max_length": 512,
        "logging_steps": 1,
        "gradient_checkpointing": False,
    }


def _as_chat(row: Mapping[str, str]) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": row["question"]}],
        "completion": [{"role": "assistant", "content": row["answer"]}],
    }


def _run_plain(spec: Mapping[str, Any], folder: Path, threads: int) -> dict[str, Any]:
    folder.mkdir()
    file = folder / "spec.json"
    file.write_text(json.dumps(spec))
    cache = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(folder.parent / "plain-cache")}
    environment = {**os.environ, **cache, "OMP_NUM_THREADS": str(threads)}
    answer = subprocess.run(
        [sys.executable, str(PLAIN), str(file)], env=environment, capture_output=True, text=True, check=False
    )
    if answer.returncode != 0:
        raise RuntimeError(f"the plain program failed:\n{answer.stderr[-4000:]}")
    return dict(json.loads(answer.stdout.splitlines()[-1]))


def _say(line: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True)


def measure(settings: Settings, home: Path, *, tiny: bool) -> dict[str, Any]:
    """Measure everything on a cluster that is started for it; return what `report` writes."""
    cluster = BenchCluster(home / "cluster")
    with cluster.running():
        small = write_tiny_model(cluster.volume / "demo" / "two-layers")
        model = small if tiny else smollm2.prepare(cluster.volume).model
        benchmark = Benchmark(settings, cluster, model, small)
        plain, ours = benchmark.swapping()
        memory = benchmark.memory()
        latency = {small.name: benchmark.latency(small, "latency-small", settings.warm)}
        if not tiny:
            latency[model.name] = benchmark.latency(model, "latency", settings.warm // 5)
    return {
        "model": model.name,
        "settings": asdict(settings),
        "plain": [asdict(each) for each in plain],
        "ours": [asdict(each) for each in ours],
        "medians": {"plain": figures.middle(plain), "ours": figures.middle(ours)},
        "same_losses": all(each.losses == plain[0].losses for each in (*plain, *ours)),
        "memory": {str(count): peak for count, peak in memory.items()},
        "latency": {name: asdict(each) for name, each in latency.items()},
    }


def main() -> None:
    """Measure, and write the results."""
    usual = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="a two-layer model and fewer chunks: does all of it work?")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    for name in ("repetitions", "configs", "steps", "chunks", "warm", "fresh"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    options = vars(parser.parse_args())
    out, tiny = options.pop("out"), options.pop("tiny")
    settings = Settings(**options)
    begun = time.time()
    with tempfile.TemporaryDirectory(prefix="rapidfireai-bench-") as folder:
        measured = measure(settings, Path(folder), tiny=tiny)
    whole = {**report.facts(), "seconds": round(time.time() - begun), **measured}
    report.write(whole, out)


if __name__ == "__main__":
    main()
