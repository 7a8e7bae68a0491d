"""Prompts compared side by side on one warm engine, against the same pipelines in fresh processes one after another.

`python -m benchmarks.evals` writes benchmarks/results/evals.md and evals.json; README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from benchmarks.cluster import BenchCluster, Trace
from examples import smollm2

PLAIN = Path(__file__).with_name("plain_eval.py")
RESULTS = Path(__file__).with_name("results")
SEED = 42
PROMPTS = (
    "Answer in a few words: {question}",
    "You are a quiz master. Say the answer and nothing else.\n{question}",
    "Question: {question}\nShort answer:",
    "Think of what the question asks for, then give only the answer.\n{question}",
)
"""Each prompt is a pipeline."""
SOURCE = """
def preprocess(batch, rag, prompt_manager):
    prompt = prompt_manager.get_instructions()
    return {**batch, "prompts": [[{"role": "user", "content": prompt.format(question=q)}] for q in batch["question"]]}

def compute_metrics(batch):
    both = zip(batch["answer"], batch["generated_text"])
    return {"Right": {"value": sum(a.lower() in t.lower() for a, t in both)}, "Total": {"value": len(batch["answer"])}}

def accumulate(metrics):
    right, total = (sum(each["value"] for each in metrics[name]) for name in ("Right", "Total"))
    return {"Accuracy": {"value": right / total, "is_algebraic": True, "value_range": (0, 1)}}
"""


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured.

    Attributes:
        repetitions: How often both ways are run, the order changing each time.
        rows: Rows of the data set.
        shards: Shards of it.
        tokens: The most tokens of an answer.
        threads: Threads that an engine computes with.
    """

    repetitions: int = 3
    rows: int = 120
    shards: int = 4
    tokens: int = 24
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Pass:
    """One way to evaluate all pipelines, once.

    Attributes:
        wall: Seconds from nothing to the last answer, starts and loads included.
        compared: Seconds until every pipeline has answered its first shard.
        right: Right answers of each pipeline.
    """

    wall: float
    compared: float
    right: list[int]


class Benchmark:
    """The measurements, on one cluster with one model."""

    def __init__(self, settings: Settings, cluster: BenchCluster, model: Path) -> None:
        self._settings, self._cluster, self._model = settings, cluster, model
        self._folder = model.parent
        self._rows = self._folder / "evals-rows.jsonl"
        rows = smollm2.questions()[: settings.rows]
        self._rows.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def both(self) -> tuple[list[Pass], list[Pass]]:
        """Evaluate the pipelines both ways, again and again; return the plain passes and ours."""
        plain, ours = [], []
        for number in range(self._settings.repetitions):
            for way in ("plain", "ours") if number % 2 == 0 else ("ours", "plain"):
                print(f"{time.strftime('%H:%M:%S')}  {way}, {number + 1} of {self._settings.repetitions}", flush=True)
                if way == "plain":
                    plain.append(self._one_after_another())
                else:
                    ours.append(self._of_shards(self._cluster.run(f"evals-{number}", self._spec())))
        return plain, ours

    def _sampling(self) -> dict[str, Any]:
        return {"temperature": 0.0, "max_tokens": self._settings.tokens}

    def _spec(self) -> dict[str, Any]:
        """Return the experiment on one worker, as a YAML user writes it."""
        prompts = [{"instructions": prompt} for prompt in PROMPTS]
        config = {
            "vllm_config": {
                "model_config": {"model": self._cluster.uri(self._model), "max_model_len": 512},
                "sampling_params": self._sampling(),
                "prompt_manager": {"$list": prompts},
            },
            "batch_size": 16,
            "preprocess_fn": {"$function": "preprocess"},
            "compute_metrics_fn": {"$function": "compute_metrics"},
            "accumulate_metrics_fn": {"$function": "accumulate"},
        }
        return {
            "mode": "evals",
            "seed": SEED,
            "shards": self._settings.shards,
            "objective": {"metric": "Accuracy", "direction": "maximize"},
            "configs": [{"config": config}],
            "code": {"source": SOURCE},
            "data": {"eval": {"uri": self._cluster.uri(self._rows)}},
            "workers": {"replicas": 1},
        }

    def _of_shards(self, trace: Trace) -> Pass:
        first: dict[str, float] = {}
        last: dict[str, float] = {}
        for line in trace.lines:
            if line.kind == "shard":
                first.setdefault(line.run, line.time)
                last[line.run] = line.values["Accuracy"]
        right = [round(last[run] * self._settings.rows) for run in sorted(last)]
        return Pass(trace.finished - trace.asked, max(first.values()) - trace.asked, right)

    def _one_after_another(self) -> Pass:
        begun = time.time()
        said = [self._run_plain(prompt) for prompt in PROMPTS]
        compared = said[-1]["answered"][0] - begun
        return Pass(said[-1]["answered"][-1] - begun, compared, [each["right"] for each in said])

    def _run_plain(self, prompt: str) -> dict[str, Any]:
        settings = self._settings
        model = {"model": str(self._model), "dtype": "float32", "enforce_eager": True, "max_model_len": 512}
        spec = {
            "model_config": model,
            "sampling_params": self._sampling(),
            "prompt": prompt,
            "rows": str(self._rows),
            "shards": settings.shards,
        }
        file = self._folder / "plain-eval.json"
        file.write_text(json.dumps(spec))
        more = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(settings.threads), "VLLM_CPU_KVCACHE_SPACE": "1"}
        answer = subprocess.run(
            [sys.executable, str(PLAIN), str(file)],
            env={**os.environ, **more, "VLLM_NO_USAGE_STATS": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if answer.returncode != 0:
            raise RuntimeError(f"the plain program failed:\n{answer.stderr[-4000:]}")
        # vLLM's processes may say something when they end.
        return dict(json.loads(next(line for line in answer.stdout.splitlines() if line.startswith('{"answered"'))))


def rendered(whole: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    settings, machine = whole["settings"], whole["machine"]
    lines = []
    for label, name in (("all rows of all pipelines, s", "wall"), ("until all pipelines compare, s", "compared")):
        plain, ours = (median(each[name] for each in whole[way]) for way in ("plain", "ours"))
        lines.append(f"| {label} | {plain:.1f} | {ours:.1f} | {ours / plain:.3f} |")
    same = all(each["right"] == whole["plain"][0]["right"] for each in (*whole["plain"], *whole["ours"]))
    return "\n".join(
        [
            "# Pipelines side by side against one after another",
            "",
            f"{len(PROMPTS)} prompts on {whole['model']}, {settings['rows']} rows in {settings['shards']} shards, "
            f"medians of {settings['repetitions']} repetitions; starts of engines included.",
            "",
            "|  | fresh processes, one after another | side by side on one worker | ratio |",
            "| --- | --- | --- | --- |",
            *lines,
            "",
            f"Both ways counted {'the same' if same else 'DIFFERENT'} right answers: {whole['ours'][0]['right']}.",
            "",
            f"Measured on {whole['date']}: {machine['processor']}, {machine['cores']} cores, {machine['memory']}, "
            f"load before it {machine['load_before']}.",
            "",
        ]
    )


def main() -> None:
    """Measure, and write the results."""
    usual = Settings()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    for name in ("repetitions", "rows", "shards", "tokens", "threads"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    options = vars(parser.parse_args())
    out = options.pop("out")
    settings = Settings(**options)
    with tempfile.TemporaryDirectory(prefix="rapidfireai-bench-") as folder:
        cluster = BenchCluster(Path(folder) / "cluster")
        with cluster.running():
            model = smollm2.prepare(cluster.volume).model
            plain, ours = Benchmark(settings, cluster, model).both()
    whole = {
        **report.facts(),
        "model": model.name,
        "settings": asdict(settings),
        "plain": [asdict(each) for each in plain],
        "ours": [asdict(each) for each in ours],
    }
    (out / "evals.json").write_text(json.dumps(whole, indent=1) + "\n")
    (out / "evals.md").write_text(rendered(whole))
    print(rendered(whole))


if __name__ == "__main__":
    main()
