"""The stream of rows: which ones a run has drawn, and that a clone goes on with the next."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.fit.cases import config_of, write_sets
from tests.fit.user_code import length, letters
from tests.support.lab import Lab
from torch.utils.data import RandomSampler, SequentialSampler
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler
from trl.trainer.utils import RepeatSampler

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.fit.stream import Position, onward

pytestmark = pytest.mark.ml

ROWS = list("abcdefghijk")
LENGTHS = [3, 9, 1, 7, 5, 2, 8, 6, 4, 11, 10]
SAMPLERS: dict[str, Callable[[], Any]] = {
    "random": lambda: RandomSampler(ROWS),
    "in order": lambda: SequentialSampler(ROWS),
    "by length": lambda: LengthGroupedSampler(4, lengths=LENGTHS),
}


def arguments(**more: Any) -> Any:
    config = SimpleNamespace(use_seedable_sampler=True)
    return SimpleNamespace(seed=7, data_seed=None, accelerator_config=config, **more)


def drawn(sampler: Any, epochs: int) -> list[int]:
    rows = []
    for epoch in range(epochs):
        sampler.set_epoch(epoch)
        rows += list(sampler)
    return rows


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("start", [0, 4, 11, 27])
def test_a_clones_rows_are_the_stream_behind_its_parents(name: str, start: int) -> None:
    torch.manual_seed(7)
    whole = drawn(onward(SAMPLERS[name](), 0, arguments()), 6)
    rest = onward(SAMPLERS[name](), start, arguments())
    assert drawn(rest, 3) == whole[start : start + 33]
    assert len(rest) == 11  # type: ignore[arg-type]
    assert sorted(whole[:11]) == list(range(11))


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_epochs_order_can_be_asked_for_again_and_draws_nothing(name: str) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    sampler = onward(SAMPLERS[name](), 4, arguments())
    first = drawn(sampler, 3)
    sampler.set_epoch(2)  # type: ignore[attr-defined]
    assert list(sampler) == first[22:]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_clone_of_grpo_goes_on_with_the_next_prompts(shuffle: bool) -> None:
    def sampler() -> RepeatSampler:
        return RepeatSampler(ROWS, mini_repeat_count=2, batch_size=3, repeat_count=2, shuffle=shuffle, seed=7)

    plain = sampler()
    plain_rows = [row for _ in range(2) for row in plain]
    assert drawn(onward(sampler(), 0, arguments()), 2) == plain_rows
    rest = onward(sampler(), 3, arguments())
    assert len(rest) == 36  # type: ignore[arg-type]
    assert drawn(rest, 1)[:24] == plain_rows[12:36]


def test_an_order_of_batches_cannot_be_taken_up_inside_an_epoch() -> None:
    sampler = BatchRebalanceSampler(lengths=LENGTHS, effective_batch_size=4, dp_size=1, grad_accum=1)
    with pytest.raises(RunFailure, match="train_sampling_strategy: batch_rebalance"):
        onward(sampler, 4, arguments())


@given(st.integers(0, 999), st.integers(1, 99), st.integers(1, 99))
def test_a_place_stays_the_same_share_of_its_epoch(row: int, epoch: int, rows: int) -> None:
    place = Position(row, epoch).among(rows)
    assert place // rows == row // epoch
    assert Position(row, epoch).among(epoch) == row
    assert place * epoch <= row * rows


@pytest.mark.parametrize(
    ("name", "rows"),
    [("SFT LoRA", [4, 8, 11, 15, 19, 22, 26, 30]), ("GRPO LoRA", [2, 2, 4, 4, 6, 6, 8, 8, 10, 11, 13, 13, 15, 15])],
)
def test_a_run_counts_what_it_has_drawn_and_its_clone_draws_what_it_would_have(
    name: str, rows: list[int], tmp_path: Path, tiny_model: Path
) -> None:
    """Eleven rows; SFT takes four a step, GRPO two prompts for two steps and leaves the eleventh out."""
    lab = Lab(tmp_path, chunks=1, evals=False)
    write_sets(lab.root)
    config = config_of(name, tiny_model)
    config["training_args"]["eval_strategy"] = "no"
    if name.startswith("GRPO"):
        config["reward_funcs"] = list(lab.put_bundle(letters=letters, length=length).values())
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    parent = watched(engine, lab, "parent", config)
    counted = []
    for chunk, boundary in enumerate(engine.prepare(lab.job("parent", config)).boundaries):
        step = -1
        while step < boundary:
            step = lab.chunk(engine, "parent", config, chunk, lambda control, step: control.park.set()).step
            manifest = lab.volume.root / lab.checkpoints["parent"].path / "manifest.json"
            counted.append(json.loads(manifest.read_text())["position"]["row"])
            if step == 2:
                lab.clone("parent", "clone")
    assert counted == rows

    changed = {**config["training_args"], "max_steps": 8, "gradient_accumulation_steps": 1}
    clone = watched(engine, lab, "clone", {**config, "training_args": changed})
    lab.finish(engine, "clone", {**config, "training_args": changed})
    start = rows[1]
    assert clone[:4] == parent[start : start + 4]


def watched(engine: FitEngine, lab: Lab, name: str, config: dict[str, Any]) -> list[str]:
    """Return the list that a run's rows will be in, each as often in a row as it is drawn once."""
    engine.prepare(lab.job(name, config))
    trainer = engine.sessions[f"{name}-uid"].trainer
    rows: list[str] = []
    collate = trainer.data_collator

    def watching(features: list[dict[str, Any]]) -> Any:
        for row in features:
            text = str(row.get("input_ids") or row["prompt"])
            if text not in rows[-2:]:  # GRPO uses two prompts several times
                rows.append(text)
        return collate(features)

    trainer.data_collator = watching
    return rows
