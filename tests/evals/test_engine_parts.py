"""What a run is given besides its rows: an index that is built once, a prompt manager, an adapter that stays."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.evals.evaluations import SOURCE, EvalLab, Model, Trial, config

from rapidfireai.api.run import Checkpoint
from rapidfireai_worker.engine import ChunkControl, Discarded, RunFailure

MORE = """

def with_context(batch, rag, prompt_manager):
    found = rag.get_context(batch["question"], serialize=False)
    shown = rag.serialize_documents(found)
    told = prompt_manager.get_instructions()
    shots = prompt_manager.get_fewshot_examples(batch["question"])
    prompts = [
        [{"role": "system", "content": told}, {"role": "user", "content": question}] for question in batch["question"]
    ]
    return {**batch, "prompts": prompts, "context": shown, "shots": shots, "documents": found}
"""
FAKE = {
    "embedding_cls": {"$class": "langchain_core.embeddings:DeterministicFakeEmbedding"},
    "embedding_kwargs": {"size": 16},
}


def leaf(lab: EvalLab, kind: str = "api_config", **more: Any) -> dict[str, Any]:
    loader = {
        "$class": "langchain_community.document_loaders:TextLoader",
        "kwargs": {"file_path": str(lab.root / "facts.txt")},
    }
    section = {
        "model_config": {"model": "function"},
        "rag": {"document_loader": loader, "search_kwargs": {"k": 1}, **FAKE},
        "prompt_manager": {"instructions": "Answer with a number."},
        **more,
    }
    return config(**{"api_config": None, kind: section, "preprocess_fn": {"$function": "with_context"}})


@pytest.fixture
def lab(tmp_path: Path) -> EvalLab:
    (tmp_path / "facts.txt").write_text("A square is a number times itself.")
    return EvalLab(tmp_path, rows=6, shards=2, source=SOURCE + MORE)


def test_an_index_is_named_then_built_then_searched(lab: EvalLab) -> None:
    engine = lab.engine()
    named = engine.prepare(lab.job("r1", leaf(lab)))
    assert named.index is not None
    assert not named.index_built
    reports: list[tuple[int, dict[str, float]]] = []
    control = ChunkControl(report=lambda step, values: reports.append((step, dict(values))))
    assert engine.build_index(lab.job("r1", leaf(lab)), control).index_built
    assert reports[-1] == (0, {"Documents Indexed": 1.0, "Documents": 1.0})
    elsewhere = lab.engine()
    again = elsewhere.prepare(lab.job("r2", leaf(lab)))
    assert (again.index, again.index_built) == (named.index, True)
    lab.finish(engine, "r1", leaf(lab))
    row = lab.all_rows("r1")[0]
    assert "A square is a number times itself." in row["context"]
    assert row["prompts"][0] == {"role": "system", "content": "Answer with a number."}
    assert row["shots"] == ""
    assert len(lab.all_rows("r1")) == 6


def test_an_index_that_was_removed_is_built_again_by_whoever_needs_it(lab: EvalLab) -> None:
    lab.commit(lab.engine(), "r1", leaf(lab))
    shutil.rmtree(lab.volume.indexes)
    trial = Trial()
    assert lab.commit(lab.engine(), "r1", leaf(lab), trial).step == 6
    assert all(step >= 3 for step, _ in trial.reports)


def test_a_build_that_is_told_to_end_costs_the_run_nothing(lab: EvalLab) -> None:
    engine, control = lab.engine(), ChunkControl()
    control.park.set()
    with pytest.raises(RunFailure) as failed:
        engine.build_index(lab.job("r1", leaf(lab)), control)
    assert (failed.value.reason, failed.value.blame) == ("IndexAbandoned", "Infrastructure")
    control.discard.set()
    with pytest.raises(Discarded):
        engine.build_index(lab.job("r1", leaf(lab)), control)
    with pytest.raises(RunFailure, match="searches no index"):
        engine.build_index(lab.job("r2", leaf(lab, rag=None, prompt_manager=None)), ChunkControl())


def adapter(lab: EvalLab, run: str, weights: str, step: int = 8, *, whole_model: bool = False) -> Checkpoint:
    """Write what a training run commits."""
    directory = lab.volume.experiments / "fit-uid" / "runs" / f"{run}-uid" / "checkpoints" / f"{step}-1"
    (directory / "model").mkdir(parents=True)
    names = ["config.json"] if whole_model else ["adapter_config.json", "adapter_model.safetensors"]
    files = {}
    for name in names:
        (directory / "model" / name).write_text(f"{name} {weights}")
        digest = hashlib.sha256((directory / "model" / name).read_bytes()).hexdigest()
        files[f"model/{name}"] = {"sha256": digest, "bytes": 1}
    manifest = json.dumps({"format": 1, "files": files})
    (directory / "manifest.json").write_text(manifest)
    path = str(directory.relative_to(lab.volume.root))
    return Checkpoint(path=path, digest=hashlib.sha256(manifest.encode()).hexdigest(), step=step)


def test_the_adapter_of_a_run_is_kept_as_it_was_when_the_experiment_first_named_it(lab: EvalLab) -> None:
    chosen = leaf(lab, "vllm_config", adapter="sft-r1")
    lab.adapter = adapter(lab, "sft-r1", "first")
    model = Model()
    lab.engine(model).prepare(lab.job("r1", chosen))
    shutil.rmtree(lab.volume.root / lab.adapter.path)  # retention took it
    lab.adapter = adapter(lab, "sft-r1", "later", 16)
    lab.finish(lab.engine(model), "r1", chosen)
    lab.finish(lab.engine(model), "r2", chosen)
    kept = {told[2] for told in model.told}
    assert len(kept) == 1
    directory = Path(str(kept.pop()))
    assert directory.is_relative_to(lab.volume.experiments / "lab-uid")
    assert (directory / "adapter_model.safetensors").read_text() == "adapter_model.safetensors first"
    assert json.loads((directory / "source.json").read_text())["run"] == "sft-r1"
    assert "adapter" not in model.told[0][1]


def test_an_adapter_that_cannot_be_evaluated_is_refused(lab: EvalLab) -> None:
    chosen = leaf(lab, "vllm_config", adapter="sft-r1")
    failure = lab.failure(chosen)
    assert failure.reason == "AdapterNotFound"
    assert "vllm_config.adapter: there is no run 'sft-r1' in namespace lab" in failure.message
    lab.adapter = adapter(lab, "sft-r1", "whole", whole_model=True)
    assert "trains a whole model and no adapter" in lab.failure(chosen).message
    lab.adapter = adapter(lab, "sft-r2", "damaged")
    (lab.volume.root / lab.adapter.path / "model" / "adapter_model.safetensors").write_text("other")
    failure = lab.failure(chosen)
    assert (failure.reason, failure.retry) == ("AdapterNotFound", True)
    assert list((lab.volume.experiments / "lab-uid" / "adapters").iterdir()) == []
