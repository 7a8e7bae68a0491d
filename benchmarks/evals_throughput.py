"""What our vLLM generator answers in a second, in batches, against `LLM.chat` on all the prompts at once.

`python -m benchmarks.evals_throughput` writes benchmarks/results/evals_throughput.md and .json. Both engines have the
same arguments and live in this process side by side; the idle one computes nothing. The order changes with every
repetition, and figures are medians.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import report
from examples import smollm2

RESULTS = Path(__file__).with_name("results")
GOAL = 0.95
Conversations = list[list[dict[str, str]]]
_STORIES = (
    "{name} sells {a} boxes of {b} apples each at the market on Monday, and half as many boxes on Tuesday. Each apple "
    "costs {c} cents. On Wednesday it rains and nobody comes, so the apples that are left go to the neighbours. How "
    "much money, in cents, does {name} earn in the three days together?",
    "A train leaves the station with {a} passengers. At the first stop {b} people get off and {c} get on, at the "
    "second stop a third of those on the train get off. {name} counts everybody who is still there when the doors "
    "close. How many people does {name} count?",
    "{name} reads {a} pages of a book every weekday and {b} pages on each day of the weekend. The book has {c} "
    "chapters of 24 pages. How many whole weeks does {name} need to finish the book, and "
    "how many pages are left after them?",
)


def questions(count: int, file: Path | None) -> list[str]:
    """Return questions as long as those of GSM8K, or those of a file of JSON lines with `question`."""
    if file is not None:
        lines = file.read_text().splitlines()[:count]
        return [str(json.loads(line)["question"]) for line in lines]
    draw = random.Random(0)  # noqa: S311 - no secret
    return [
        draw.choice(_STORIES).format(
            name=draw.choice(("Ada", "Grace", "Edsger", "Barbara")),
            a=draw.randint(9, 90),
            b=draw.randint(3, 30),
            c=index,
        )
        for index in range(count)
    ]


class Ours:
    """Our generator, fed as a shard feeds it: some batches under way, the next one as soon as the first is answered."""

    def __init__(
        self, engine: dict[str, Any], sampling: dict[str, Any], batch: int, folder: Path, threads: int
    ) -> None:
        from rapidfireai_worker.evals.generators.vllm import VllmEngines  # noqa: PLC0415 - takes a while
        from rapidfireai_worker.evals.parts import Site  # noqa: PLC0415
        from rapidfireai_worker.layout import Volume  # noqa: PLC0415

        self._engines = VllmEngines(Site(Volume(folder), threads=threads))
        self._generator = self._engines.generator("bench", {"model_config": engine, "sampling_params": sampling}, None)
        self._batch = batch

    def answer(self, prompts: Conversations) -> tuple[list[str], int]:
        """Return the answers and how many tokens were written."""
        under_way: deque[Future[list[Any]]] = deque()
        answers: list[Any] = []
        for start in range(0, len(prompts), self._batch):
            under_way.append(self._generator.submit(prompts[start : start + self._batch]))
            if len(under_way) >= self._generator.in_flight:
                answers += under_way.popleft().result()
        for future in under_way:
            answers += future.result()
        return [str(each.text) for each in answers], sum(each.completion_tokens for each in answers)

    def close(self) -> None:
        """End the engine."""
        self._engines.close()


class Raw:
    """vLLM's own offline interface, which is given everything at once."""

    def __init__(self, engine: dict[str, Any], sampling: dict[str, Any]) -> None:
        from vllm import LLM, SamplingParams  # noqa: PLC0415 - takes a while

        self._llm = LLM(**{"dtype": "float32", "enforce_eager": True, **engine})
        self._sampling = SamplingParams(**sampling)

    def answer(self, prompts: Conversations) -> tuple[list[str], int]:
        """Return the answers and how many tokens were written."""
        made = self._llm.chat(prompts, self._sampling, use_tqdm=False)
        outputs = [each.outputs[0] for each in made]
        return [each.text for each in outputs], sum(len(each.token_ids) for each in outputs)


def measure(model: Path, asked: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Return the seconds of each repetition, both ways, and whether they answered alike."""
    engine = {"model": str(model), "max_model_len": 1024, "enable_prefix_caching": False}
    sampling = {"temperature": 0, "max_tokens": options.tokens}
    prompts = [[{"role": "user", "content": question}] for question in asked]
    # Before vLLM is imported, and the same for both.
    os.environ.update(
        {"OMP_NUM_THREADS": str(options.threads), "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    )
    with tempfile.TemporaryDirectory(prefix="rapidfireai-bench-") as folder:
        ours = Ours(engine, sampling, options.batch, Path(folder), options.threads)
        raw = Raw(engine, sampling)
        ways: dict[str, Ours | Raw] = {"ours": ours, "raw": raw}
        for way in ways.values():
            way.answer(prompts[:8])
        passes: dict[str, list[dict[str, Any]]] = {"ours": [], "raw": []}
        answers: dict[str, list[str]] = {}
        for number in range(options.repetitions):
            for name in ("raw", "ours") if number % 2 == 0 else ("ours", "raw"):
                began = time.monotonic()
                answers[name], written = ways[name].answer(prompts)
                seconds = time.monotonic() - began
                passes[name].append({"seconds": seconds, "tokens": written, "load": round(os.getloadavg()[0], 2)})
                print(f"{name} {number + 1}: {len(prompts)} rows, {written} tokens in {seconds:.1f} s", flush=True)
        ours.close()
    same = sum(one == other for one, other in zip(answers["ours"], answers["raw"], strict=True))
    return {"passes": passes, "same_answers": same}


def render(whole: dict[str, Any]) -> str:
    """Return the results as Markdown."""
    settings, machine = whole["settings"], whole["machine"]
    rate = {
        name: {
            "rows": median(settings["rows"] / each["seconds"] for each in passes),
            "tokens": median(each["tokens"] / each["seconds"] for each in passes),
        }
        for name, passes in whole["passes"].items()
    }
    raw, ours = rate["raw"], rate["ours"]
    lines = [
        f"| {label} | {raw[key]:.2f} | {ours[key]:.2f} | {ours[key] / raw[key]:.3f} | {goal} |"
        for label, key, goal in (("rows a second", "rows", f">= {GOAL}"), ("tokens a second", "tokens", ""))
    ]
    loads = [each["load"] for passes in whole["passes"].values() for each in passes]
    return "\n".join(
        [
            "# Answers of vLLM, against vLLM alone",
            "",
            f"{settings['rows']} questions to {whole['model']}, at most {settings['tokens']} tokens each, greedily, in "
            f"batches of {settings['batch']}; medians of {settings['repetitions']} repetitions. An engine has "
            f"{settings['threads']} thread{'s' if settings['threads'] > 1 else ''}.",
            "",
            "|  | `LLM.chat` on all at once | our generator | ratio | goal |",
            "| --- | --- | --- | --- | --- |",
            *lines,
            "",
            f"{whole['same_answers']} of {settings['rows']} answers are the same to the letter.",
            "",
            "## Measured on",
            "",
            f"{whole['date']}, in {whole['seconds']} s: {machine['processor']}, {machine['cores']} cores, "
            f"{machine['memory']}, {machine['system']}. Load before it {machine['load_before']}, after the passes "
            f"{min(loads)} to {max(loads)}: where it is more than what the benchmark itself causes (about 2), other "
            "programs computed beside it, and only the ratio means something.",
            "",
            "Versions: " + ", ".join(f"{name} {number}" for name, number in whole["versions"].items()) + ".",
            "",
        ]
    )


def main() -> None:
    """Measure, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", type=Path, help="a model folder instead of SmolLM2-135M-Instruct")
    parser.add_argument("--data", type=Path, help="JSON lines with `question`, instead of questions made up here")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the results go")
    for name, usual in (("rows", 128), ("batch", 16), ("tokens", 64), ("repetitions", 5), ("threads", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    options = parser.parse_args()
    facts = report.facts()
    facts["versions"]["vllm"] = _vllm_version()
    began = time.time()
    model = options.model or smollm2.converted_model()
    asked = questions(options.rows, options.data)
    measured = measure(model, asked, options)
    settings = {name: getattr(options, name) for name in ("batch", "tokens", "repetitions", "threads")}
    whole = {
        **facts,
        "seconds": round(time.time() - began),
        "model": model.name,
        "settings": {"rows": len(asked), **settings, "data": options.data and options.data.name},
        **measured,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "evals_throughput.json").write_text(json.dumps(whole, indent=1) + "\n")
    text = render(whole)
    (options.out / "evals_throughput.md").write_text(text)
    print(text)


def _vllm_version() -> str:
    try:
        return version("vllm")
    except ImportError:  # the build for machines without a GPU has another name
        return f"{version('vllm-cpu')} (cpu)"


if __name__ == "__main__":
    main()
