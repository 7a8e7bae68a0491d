"""What an evaluation refuses: a sentence that names the field, what was found, and the fix."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from tests.evals.evaluations import SOURCE, EvalLab, Model, Trial, config

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals import commits

MORE = """

def no_prompts(batch):
    return {**batch, "prompt": batch["question"]}

def nothing(batch):
    return None

def too_few(batch):
    return {**batch, "prompts": batch["question"][:-1]}

def odd_prompts(batch):
    return {**batch, "prompts": [{"text": each} for each in batch["question"]]}

def odd_column(batch):
    return {**batch, "prompts": batch["question"], "note": "one for all"}

def with_texts(batch):
    return {**batch, "prompts": batch["question"]}

def breaks(batch):
    raise KeyError("doc_id")

def wants_more(batch, rag, prompt_manager, tokenizer):
    return batch

def drops_rows(batch):
    return {name: values[1:] for name, values in batch.items()}

def words(batch):
    return {"Accuracy": {"value": "high"}}

def nan(batch):
    return {"F1": {"value": float("nan")}}

def valueless(batch):
    return {"F1": {"score": 1.0}}

def listed(batch):
    return [1, 2]

def beyond(metrics):
    return {"Share": {"value": 7.5, "is_algebraic": True, "value_range": (0, 1)}}
"""


@pytest.fixture
def lab(tmp_path: Path) -> EvalLab:
    return EvalLab(tmp_path, source=SOURCE + MORE)


@pytest.mark.parametrize(
    ("changed", "reason", "words"),
    [
        ({"preprocess_fn": "no_prompts"}, "InvalidBatch", ["preprocess_fn", "'prompt', 'question'", "`prompts`"]),
        ({"preprocess_fn": "nothing"}, "InvalidBatch", ["preprocess_fn: returned None"]),
        ({"preprocess_fn": "too_few"}, "InvalidBatch", ["preprocess_fn: prompts has 3 values and the batch 4 rows"]),
        ({"preprocess_fn": "odd_prompts"}, "InvalidBatch", ["preprocess_fn: prompts", "role", "{'text': "]),
        ({"preprocess_fn": "odd_column"}, "InvalidBatch", ["preprocess_fn: note is str 'one for all'"]),
        ({"preprocess_fn": "breaks"}, "UserCodeError", ["preprocess_fn raised KeyError: 'doc_id' at spec.code.source"]),
        ({"preprocess_fn": "wants_more"}, "InvalidConfig", ["preprocess_fn: its argument 'tokenizer'", "rag"]),
        ({"postprocess_fn": "drops_rows"}, "InvalidBatch", ["postprocess_fn: question has 3 values"]),
        ({"postprocess_fn": "breaks"}, "UserCodeError", ["postprocess_fn raised KeyError"]),
        ({"compute_metrics_fn": "words"}, "InvalidMetric", ["metric 'Accuracy' is str 'high'", "value"]),
        ({"compute_metrics_fn": "nan"}, "InvalidMetric", ["metric 'F1' is float nan, not a finite number"]),
        ({"compute_metrics_fn": "valueless"}, "InvalidMetric", ["metric 'F1' is None"]),
        ({"compute_metrics_fn": "listed"}, "InvalidMetric", ["compute_metrics_fn: returned list [1, 2]"]),
        ({"accumulate_metrics_fn": "beyond"}, "InvalidMetric", ["Share", "7.5"]),
        ({"compute_metrics_fn": None}, "InvalidConfig", ["compute_metrics_fn: is missing", "accumulate_metrics_fn"]),
        ({"preprocess_fn": None}, "InvalidConfig", ["preprocess_fn: is missing", "answer, question"]),
        ({"preprocess_fn": "not_there"}, "InvalidCode", ["not_there", "preprocess"]),
    ],
)
def test_a_function_that_does_not_fit_fails_the_run_with_a_sentence(
    lab: EvalLab, changed: dict[str, str | None], reason: str, words: list[str]
) -> None:
    leaf = config(**{role: name if name is None else {"$function": name} for role, name in changed.items()})
    failure = lab.failure(leaf)
    assert failure.reason == reason, failure.message
    for each in words:
        assert each in failure.message
    healthy = lab.commit(lab.engine(), "healthy", config())
    assert healthy.step == 10


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"batch_size": 0}, ["batch_size"]),
        ({"online_strategy_kwargs": {"strategy_name": "wilsen"}}, ["online_strategy_kwargs.strategy_name", "wilson"]),
        ({"vllm_config": {"model_config": {"model": "m"}}}, ["vllm_config and api_config"]),
        ({"preprocess_fn": None, "api_config": {"model_config": {"model": "m"}, "rag": {}}}, ["api_config.rag"]),
        ({"api_config": {"model_config": {"model": "pvc://nowhere/m"}}}, ["model_config.model", "'nowhere'"]),
        (
            {"api_config": {"model_config": {"model": "m"}, "client_config": {"api_key": {"$env": "NOT_SET"}}}},
            ["NOT_SET", "spec.workers.template"],
        ),
    ],
)
def test_a_config_that_cannot_work_is_refused_before_a_row_is_asked(
    lab: EvalLab, changed: dict[str, Any], words: list[str]
) -> None:
    if changed.get("preprocess_fn", "") is None:
        lab.write([{"prompt": f"n {n}", "answer": "", "question": ""} for n in range(30)])
    model = Model()
    with pytest.raises(RunFailure) as failed:
        lab.engine(model).prepare(lab.job("r1", config(**changed)))
    assert not failed.value.retry or failed.value.reason == "ModelNotFound"
    for each in words:
        assert each in failed.value.message
    assert model.asked == []


def test_more_shards_than_rows_are_refused_with_the_most_that_works(lab: EvalLab) -> None:
    lab.shards = 31
    assert lab.failure(config()).message == "spec.shards: 31 shards of 30 rows; write 30 at most"


def test_no_rows_at_all(lab: EvalLab) -> None:
    lab.write([])
    failure = lab.failure(config())
    assert failure.reason == "DatasetEmpty"
    assert "data.eval" in failure.message


def test_fewer_rows_than_are_answered(lab: EvalLab) -> None:
    lab.commit(lab.engine(), "r1", config())
    lab.write([{"question": f"square {n}", "answer": ""} for n in range(5)])
    lab.shards = 1
    assert lab.failure(config()).reason == "DataChanged"


def test_what_no_row_escapes_fails_the_run_once(lab: EvalLab) -> None:
    model = Model()
    model.raises = RunFailure("InvalidConfig", "api_config.client_config.api_key: the server refuses it")
    failure = lab.failure(config(), model)
    assert failure.message == "api_config.client_config.api_key: the server refuses it"
    model.raises = ConnectionError("the engine is gone")
    failure = lab.failure(config(), model)
    assert failure.reason == "GenerationError"
    assert "the engine is gone" in failure.message
    assert failure.retry


def test_texts_count_as_what_the_user_says(lab: EvalLab) -> None:
    lab.commit(lab.engine(), "r1", config(preprocess_fn={"$function": "with_texts"}))
    row = lab.all_rows("r1")[0]
    assert row["prompts"] == [{"role": "user", "content": row["question"]}]


def test_a_full_disk_is_nobodys_fault_and_leaves_nothing(lab: EvalLab, monkeypatch: pytest.MonkeyPatch) -> None:
    made = lab.next_shard(lab.engine(), "r1", config(), Trial())

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(commits.pq, "write_table", full)
        with pytest.raises(RunFailure) as failed:
            made.persist()
    assert (failed.value.reason, failed.value.blame) == ("StorageFull", "Infrastructure")
    assert list(lab.volume.run("lab-uid", "r1-uid").shards.iterdir()) == []
    assert made.persist().step == 10
