"""What `run_fit` accepts, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rapidfireai.automl import RFGridSearch, RFGRPOConfig, RFModelConfig, RFSFTConfig
from rapidfireai.data import DataFile
from rapidfireai.errors import BundleError, ConfigError, DataError
from rapidfireai.fit_call import FitCall, prepare
from rapidfireai.submission import Submission

from .acting import create_model, rows, search


def asked(directory: Path, **given: Any) -> Submission:
    call = {
        "config_group": search(), "create_model_fn": None, "train_dataset": rows(), "eval_dataset": None,
        "num_chunks": 2, "seed": 42, "num_workers": None, **given,
    }  # fmt: skip
    known = {name: call.pop(name) for name in FitCall.__dataclass_fields__ if name in call}
    return prepare(directory, FitCall(**known), call)


def test_a_call_becomes_a_spec_and_the_files_that_it_names(tmp_path: Path) -> None:
    submission = asked(tmp_path, create_model_fn=create_model, eval_dataset="hf://x/y", seed=7)
    assert (submission.runs, submission.pieces, submission.workers) == (2, 2, None)
    train = submission.data["train"]
    assert isinstance(train, DataFile)
    spec = submission.spec(3)
    assert (spec.seed, spec.chunks, spec.workers.replicas) == (7, 2, 3)
    assert spec.data.train.uri == f"blob://sha256/{train.digest}"
    assert spec.data.eval is not None
    assert spec.data.eval.uri == "hf://x/y"
    assert spec.code is not None
    assert submission.bundle is not None
    assert spec.code.bundle == submission.bundle.digest


def test_equal_calls_under_other_names_come_to_the_same(tmp_path: Path) -> None:
    config = RFModelConfig(training_args=RFSFTConfig())
    plain = asked(tmp_path, config_group=config)
    named = {"config_group": None, "param_config": config, "num_chunks": None, "num_shards": 2}
    newer = asked(tmp_path, **named, num_gpus=1, monte_carlo_simulations=1000)
    assert newer == plain
    assert not asked(tmp_path, train_dataset="hf://x/y").has_files
    assert newer.has_files


def test_runs_of_grpo_are_ranked_by_their_rewards(tmp_path: Path) -> None:
    config = RFModelConfig(training_args=RFGRPOConfig(), reward_funcs=[create_model])
    group = RFGridSearch(config, "GRPO")
    objective = asked(tmp_path, config_group=group, eval_dataset="hf://x/y").spec(1).objective
    assert (objective.metric, objective.direction) == ("eval_reward", "maximize")
    assert asked(tmp_path, config_group=group).spec(1).objective.metric == "eval_loss"
    assert asked(tmp_path, eval_dataset="hf://x/y").spec(1).objective.direction == "minimize"


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"num_chunk": 4}, TypeError, "run_fit has no argument num_chunk; did you mean num_chunks?"),
        ({"num_chunks": None}, TypeError, "run_fit needs num_chunks"),
        ({"num_shards": 4}, TypeError, "num_shards is another name of num_chunks; give one of them"),
        ({"num_chunks": 0}, ValueError, "num_chunks must be a whole number of at least 1, not 0"),
        ({"num_chunks": 2.0}, ValueError, "num_chunks must be a whole number"),
        ({"config_group": {}, "param_config": {}}, TypeError, "param_config is another name of config_group"),
        ({"num_gpus": 2}, ValueError, "run_fit: num_gpus must be 1, not 2; a run uses one GPU"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0"),
        ({"num_workers": 0}, ValueError, "num_workers must be a whole number of at least 1"),
        ({"config_group": None}, TypeError, "run_fit needs config_group"),
        ({"train_dataset": None}, TypeError, "run_fit needs train_dataset"),
        ({"create_model_fn": "create"}, TypeError, "create_model_fn must be a function, not 'create'"),
        ({"config_group": {"training_args": RFSFTConfig(), "modelname": "m"}}, ConfigError, "did you mean model_name?"),
        ({"train_dataset": "train.jsonl"}, DataError, "train_dataset: 'train.jsonl' does not exist here"),
        ({"train_dataset": [{"a": 1}]}, DataError, "write datasets.Dataset.from_list(rows)"),
        ({"train_dataset": pd.DataFrame()}, DataError, "write datasets.Dataset.from_pandas(frame)"),
        ({"train_dataset": {"train": 1}}, DataError, "choose one of them: train"),
        ({"train_dataset": rows(0)}, DataError, "train_dataset: has no rows"),
        ({"eval_dataset": 3}, DataError, "eval_dataset: must be a datasets.Dataset, a path or a URI, not int"),
        ({"create_model_fn": (x for x in ()).send}, BundleError, "create_model_fn: generator.send cannot be sent"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(
    tmp_path: Path, arguments: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as caught:
        asked(tmp_path, **arguments)
    assert words in str(caught.value)
