"""A run's config as the engine works with it: checked, its code and functions found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rapidfireai.errors import ConfigError
from rapidfireai.expand import restore
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.evals.functions import Functions
from rapidfireai_worker.evals.generators import kind_of
from rapidfireai_worker.evals.results import Prices
from rapidfireai_worker.evals.strategies import EstimateError, Strategy
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.places import located
from rapidfireai_worker.user_code.bundles import UserCode

BATCH_SIZE = 8
_FUNCTIONS = ("preprocess_fn", "postprocess_fn", "compute_metrics_fn", "accumulate_metrics_fn")
_OURS = frozenset({"rag", "prompt_manager", "adapter"})
"""Parts of a section that whoever generates need not know."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A checked config.

    Attributes:
        kind: `vllm_config` or `api_config`.
        generator: What whoever generates is told of that section, its markers resolved.
        rag: The section's `rag` with its markers, if there is one.
        prompt_manager: The section's `prompt_manager` with its markers, if there is one.
        adapter: The name of the run whose adapter is evaluated, if it is one's.
        batch_size: Rows a batch.
        functions: The user's functions.
        strategy: How intervals are computed.
        prices: What tokens cost; None if nobody has to pay for them.
    """

    kind: str
    generator: Mapping[str, Any]
    rag: Mapping[str, Any] | None
    prompt_manager: Mapping[str, Any] | None
    adapter: str | None
    batch_size: int
    functions: Functions
    strategy: Strategy
    prices: Prices | None

    @classmethod
    def of(cls, job: RunJob, code: UserCode, volume: Volume, claims: Mapping[str, Path]) -> Leaf:
        """Return the config of a run.

        Args:
            job: The run.
            code: The user's code; the run's is loaded.
            volume: The shared volume.
            claims: Where each claim is mounted.

        Raises:
            RunFailure: If it cannot be worked with, naming the field, the value and the fix.
        """
        try:
            config = restore(job.config)
            strategy = Strategy.parse(config.get("online_strategy_kwargs"))
        except (ConfigError, EstimateError) as error:
            raise RunFailure("InvalidConfig", str(error)) from error
        kind = kind_of(config)
        section: Mapping[str, Any] = config[kind]
        code.load(job)
        named = {name: config[name] for name in _FUNCTIONS if config.get(name) is not None}
        functions = Functions.of(code.resolve(named, job), job.seed)
        if functions.preprocess is None:
            _check_unused(kind, section)
        told = located({name: each for name, each in section.items() if name not in _OURS}, kind, volume, claims)
        prices = Prices(section.get("input_price"), section.get("output_price")) if kind == "api_config" else None
        return cls(
            kind=kind,
            generator=code.resolve(told, job),
            rag=section.get("rag"),
            prompt_manager=section.get("prompt_manager"),
            adapter=section.get("adapter"),
            batch_size=_batch_size(config.get("batch_size", BATCH_SIZE)),
            functions=functions,
            strategy=strategy,
            prices=prices,
        )


def _check_unused(kind: str, section: Mapping[str, Any]) -> None:
    for part in ("rag", "prompt_manager"):
        if section.get(part) is not None:
            raise RunFailure(
                "InvalidConfig",
                f"{kind}.{part}: only preprocess_fn makes use of it, and there is none; write a "
                "preprocess_fn(batch, rag, prompt_manager) that returns the batch with prompts, or leave it out",
            )


def _batch_size(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise RunFailure("InvalidConfig", f"batch_size: must be a whole number from 1 on, not {value!r}")
    return value
