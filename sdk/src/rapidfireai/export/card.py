"""The model card of an exported run: how it came to be, and how it is loaded. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import yaml

from rapidfireai.api import Experiment, Run
from rapidfireai.api.data import DataSource
from rapidfireai.api.run import Checkpoint
from rapidfireai.expand import restore
from rapidfireai.export.fetching import Manifest
from rapidfireai.progress.picture import differing_knobs
from rapidfireai.volume import MetricLine

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")
_MOST_ROWS = 50
_SECRET = re.compile(
    r"(^|_)(token|api_?key|secret|password|passwd|access_key|private_key|credentials?)$", re.IGNORECASE
)
_REPEATABLE = "The same versions, thread count and hardware give the same weights, bit for bit on a CPU."


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an exported model comes from.

    Attributes:
        experiment: The experiment.
        run: The run.
        siblings: All runs of the experiment; the knobs that are named are those in which they differ.
        checkpoint: What was exported.
        manifest: What that says of itself.
        lines: What the run logged.
        merged: Whether the adapter was merged into its base model.
    """

    experiment: Experiment
    run: Run
    siblings: Sequence[Run]
    checkpoint: Checkpoint
    manifest: Manifest
    lines: Sequence[MetricLine]
    merged: bool = False

    @property
    def config(self) -> dict[str, Any]:
        """The run's config without anything that looks like a secret."""
        found: dict[str, Any] = _public(restore(self.run.spec.config))
        return found

    @property
    def base_model(self) -> str:
        """The base model as the config names it, or empty if only the user's code knows."""
        return str(self.run.spec.config.get("model_name") or "")

    @property
    def is_adapter(self) -> bool:
        """Whether the files are an adapter, not a whole model."""
        return not self.merged and any(name.startswith("adapter_") for name in self.manifest.files)

    @property
    def seed(self) -> int:
        """The seed of the run: its config's own, else the experiment's."""
        own = self.run.spec.config.get("training_args", {}).get("seed")
        return self.experiment.spec.seed if own is None else int(own)


def front_matter(of: Provenance) -> dict[str, Any]:
    """Return the card's metadata as the Hub reads them."""
    trainer = str(of.run.spec.config.get("trainer_type", "")).lower()
    data = [source.uri.removeprefix("hf://") for source in _sources(of) if source.uri.startswith("hf://")]
    named = {
        "library_name": "peft" if of.is_adapter else "transformers",
        "pipeline_tag": "text-generation",
        "tags": [tag for tag in ("rapidfireai", "trl", trainer, "lora" if of.is_adapter else "") if tag],
        "base_model": of.base_model if _HUB_NAME.fullmatch(of.base_model) else None,
        "datasets": sorted({name for name in data if _HUB_NAME.fullmatch(name)}) or None,
    }
    return {key: value for key, value in named.items() if value is not None}


def body(of: Provenance) -> str:
    """Return the card's text, as Markdown."""
    name = of.run.metadata.name
    kind = "An adapter" if of.is_adapter else "A whole model"
    trainer = of.run.spec.config.get("trainer_type", "")
    base = f" of `{of.base_model}`" if of.base_model else ""
    merged = ", its adapter merged into the base" if of.merged else ""
    sections = [
        f"# {name}",
        f"{kind}{base}, fine-tuned with TRL's {trainer}Trainer in RapidFire AI{merged}.",
        _loading(of),
        "## How it came to be",
        _facts(of),
        *_metrics(of),
        "## Config",
        f"```yaml\n{yaml.safe_dump(of.config, sort_keys=False)}```",
        "## Versions",
        _versions(of),
    ]
    return "\n\n".join(sections) + "\n"


def _loading(of: Provenance) -> str:
    if not of.is_adapter:
        return (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("DIR")\ntokenizer = AutoTokenizer.from_pretrained("DIR")\n```'
        )
    base = of.base_model or "BASE"
    where = ""
    if not _HUB_NAME.fullmatch(of.base_model):
        where = (
            f"\n\nThe base model lies at `{of.base_model}`, which only its owners see; give your own copy of it."
            if of.base_model
            else "\n\nThe base model was loaded by the experiment's own code; give the one that this loads."
        )
    return (
        "```python\nfrom peft import PeftModel\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'base = AutoModelForCausalLM.from_pretrained("{base}")\nmodel = PeftModel.from_pretrained(base, "DIR")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("DIR")\n```{where}'
    )


def _facts(of: Provenance) -> str:
    experiment, run = of.experiment, of.run
    knobs = dict(
        zip(
            (each.metadata.name for each in of.siblings),
            differing_knobs([r.spec.config for r in of.siblings]),
            strict=True,
        )
    )
    total = run.status.prepared.total_steps if run.status.prepared else of.checkpoint.step
    rows = {
        "Experiment": f"{experiment.spec.display_name or experiment.metadata.name} (`{experiment.metadata.uid}`)",
        "Run": f"{run.spec.index} of {len(of.siblings)} (`{run.metadata.uid}`)",
        "Knobs": knobs.get(run.metadata.name) or "none: it is the only config",
        "Training data": _data(experiment.spec.data.train) if experiment.spec.data.train else "none",
        "Evaluation data": _data(experiment.spec.data.eval) if experiment.spec.data.eval else "none",
        "Seed": str(of.seed),
        "Step": f"{of.checkpoint.step} of {total}",
        "Chunks an epoch": str(experiment.spec.chunks),
        "Objective": f"{experiment.spec.objective.direction} {experiment.spec.objective.metric}",
        "Checkpoint": f"sha256 `{of.checkpoint.digest}` of its manifest",
    }
    if experiment.spec.code and experiment.spec.code.bundle:
        rows["Code"] = f"bundle `{experiment.spec.code.bundle}`"
    return _table(("", ""), list(rows.items()))


def _metrics(of: Provenance) -> Iterator[str]:
    """Yield the metrics at the end of every chunk, at most so many rows, the last one among them."""
    lines = [line for line in of.lines if line.kind == "boundary" and line.step <= of.checkpoint.step]
    if not lines:
        return
    stride = -(-len(lines) // _MOST_ROWS)
    shown = lines[::-1][::stride][::-1]
    names = sorted({name for line in shown for name in line.values} - {"boundary/epoch"})
    rows = [
        (
            str(line.step),
            _number(line.values.get("boundary/epoch")),
            *(_number(line.values.get(name)) for name in names),
        )
        for line in shown
    ]
    yield "## Metrics by chunk"
    yield _table(("step", "epoch", *names), rows)


def _versions(of: Provenance) -> str:
    facts = of.manifest.facts
    versions = {
        "rapidfireai": metadata.version("rapidfireai"),
        "python": facts.get("python", ""),
        **facts.get("libraries", {}),
    }
    words = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    where = f"Trained on {facts.get('device', 'an unknown device')} with {facts.get('threads', '?')} threads."
    return f"{words}. {where} {_REPEATABLE}"


def _sources(of: Provenance) -> list[DataSource]:
    data = of.experiment.spec.data
    return [each for each in (data.train, data.eval) if each]


def _data(source: DataSource) -> str:
    return f"`{source.uri}` ({source.split})" if source.uri.startswith("hf://") else f"`{source.uri}`"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"


def _public(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _public(inner) for key, inner in value.items() if not _SECRET.search(str(key))}
    return [_public(inner) for inner in value] if isinstance(value, list) else value
