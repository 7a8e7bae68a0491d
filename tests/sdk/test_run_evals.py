"""What `run_evals` accepts and returns, without a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from rapidfireai.answers import cumulative_metrics, settings_of, together
from rapidfireai.api import Run
from rapidfireai.automl import RFGridSearch, RFModelConfig, RFSFTConfig
from rapidfireai.data import DataFile
from rapidfireai.errors import ConfigError, DataError, ExperimentError
from rapidfireai.evals_call import EvalsCall, objective_of, prepare
from rapidfireai.expand import expand
from rapidfireai.keys import command, secret_body, with_keys
from rapidfireai.manifest import to_yaml
from rapidfireai.policies import StopWhenBeaten
from rapidfireai.records import RunStatus, evals_records, shard_lines
from rapidfireai.submission import Submission
from rapidfireai.volume import MetricLine

from .evals_acting import KEY, VARIABLE, behind_an_api, pipelines, questions

NAMES = tuple(EvalsCall.__dataclass_fields__)


def asked(directory: Path, **given: Any) -> Submission:
    call = {"config_group": pipelines(), "dataset": questions(), **given}
    known = {name: call.pop(name) for name in NAMES if name in call}
    return prepare(directory, EvalsCall(**known), call)


def test_a_call_becomes_a_spec_and_the_files_that_it_names(tmp_path: Path) -> None:
    policies = [StopWhenBeaten(min_chunks=2)]
    submission = asked(tmp_path, num_shards=3, num_actors=2, seed=7, objective="maximize:Accuracy", policies=policies)
    assert (submission.runs, submission.pieces, submission.workers) == (2, 3, 2)
    rows = submission.data["eval"]
    assert isinstance(rows, DataFile)
    spec = submission.spec(2)
    assert (spec.mode, spec.shards, spec.seed, spec.workers.replicas) == ("evals", 3, 7, 2)
    assert (spec.objective.metric, spec.objective.direction) == ("Accuracy", "maximize")
    assert spec.policies[0].stop_when_beaten == StopWhenBeaten(min_chunks=2)
    assert spec.data.train is None
    assert spec.data.eval is not None
    assert spec.data.eval.uri == f"blob://sha256/{rows.digest}"
    assert submission.bundle is not None
    assert spec.code is not None
    assert spec.code.bundle == submission.bundle.digest
    leaf = expand(spec.configs, mode="evals")[1]
    assert leaf["vllm_config"]["sampling_params"]["temperature"] == 0.5
    assert leaf["preprocess_fn"]["$ref"]["bundle"] == submission.bundle.digest


def test_equal_calls_under_other_names_come_to_the_same(tmp_path: Path) -> None:
    config = pipelines()
    plain = asked(tmp_path, config_group=config, num_shards=2, num_actors=3)
    named = {"config_group": None, "param_config": config, "num_chunks": 2, "num_workers": 3}
    assert asked(tmp_path, **named, gpus_per_actor=1) == plain
    assert asked(tmp_path, dataset="pvc://data/rows.jsonl", num_shards=4000).pieces == 4000
    assert asked(tmp_path).pieces == 4
    assert asked(tmp_path, dataset={"uri": "hf://o/rows", "split": "test"}).spec(1).objective.metric == "eval_loss"


def test_cores_that_an_actor_should_have_are_said_to_have_no_effect(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(tmp_path, cpus_per_actor=2)
    assert "cpus_per_actor has no effect; workers have the CPUs that their template gives" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"num_shard": 4}, TypeError, "run_evals has no argument num_shard; did you mean num_shards?"),
        ({"num_shards": 6}, ValueError, "num_shards is 6, and the dataset has 5 rows; a shard has at least one row"),
        ({"num_shards": 0}, ValueError, "num_shards must be a whole number of at least 1, not 0"),
        ({"num_shards": 5000}, ValueError, "num_shards must be at most 4096, not 5000"),
        ({"num_shards": 2, "num_chunks": 2}, TypeError, "num_chunks is another name of num_shards"),
        ({"num_actors": 0}, ValueError, "num_actors must be a whole number of at least 1"),
        ({"gpus_per_actor": 2}, ValueError, "gpus_per_actor must be 0 or 1, not 2: a worker has one GPU"),
        ({"cpus_per_actor": -1}, ValueError, "cpus_per_actor must be a positive number, not -1"),
        ({"seed": -1}, ValueError, "seed must be a whole number of at least 0"),
        ({"config_group": None}, TypeError, "run_evals needs config_group"),
        ({"dataset": None}, TypeError, "run_evals needs dataset"),
        ({"dataset": [{"a": 1}]}, DataError, "dataset: is a list; write datasets.Dataset.from_list(rows)"),
        ({"dataset": questions(0)}, DataError, "dataset: has no rows"),
        ({"objective": "Accuracy"}, ValueError, 'write "maximize:Accuracy" or "minimize:Accuracy"'),
        ({"objective": "maximise:Accuracy"}, ValueError, "not 'maximise:Accuracy'; did you mean maximize?"),
        ({"objective": "maximize:"}, ValueError, 'must be "maximize:METRIC"'),
        ({"objective": 3}, TypeError, 'objective must be such as "maximize:Accuracy", not 3'),
        ({"objective": {"metric": "MRR"}}, ValueError, 'objective needs "metric" and "direction"'),
        ({"objective": {"metric": "MRR", "direction": "up"}}, ValueError, "objective.direction: "),
        ({"policies": "stop"}, TypeError, "policies must be a list of policies"),
        ({"max_runs": 1}, ConfigError, "the knobs make 2 runs"),
        (
            {"config_group": RFGridSearch(RFModelConfig(training_args=RFSFTConfig()))}, ConfigError,
            'call run_fit of an Experiment with mode="fit"',
        ),
    ],
)  # fmt: skip
def test_wrong_arguments_are_named(
    tmp_path: Path, arguments: dict[str, Any], kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind) as caught:
        asked(tmp_path, **arguments)
    assert words in str(caught.value)


def test_an_objective_is_written_in_two_ways() -> None:
    written = objective_of({"metric": "NDCG@5", "direction": "maximize"})
    assert objective_of(" maximize : NDCG@5 ") == written == objective_of(written)


def test_a_key_goes_into_a_secret_and_nowhere_else(tmp_path: Path) -> None:
    submission = asked(tmp_path, config_group=behind_an_api())
    assert dict(submission.keys) == {VARIABLE: KEY}
    spec = with_keys(submission.spec(1), "my-evals", submission.keys)
    leaf = expand(spec.configs, mode="evals")[0]
    assert leaf["api_config"]["client_config"]["api_key"] == {"$env": VARIABLE}
    (variable,) = spec.workers.template.spec.containers[0].env
    assert variable.name == VARIABLE
    assert variable.value_from == {"secretKeyRef": {"name": "my-evals-keys", "key": VARIABLE}}
    body = secret_body("my-evals", "the-uid", submission.keys)
    assert body["stringData"] == {VARIABLE: KEY}
    assert body["metadata"]["ownerReferences"][0]["uid"] == "the-uid"
    manifest = to_yaml("my-evals", "team", spec, command("my-evals", "team", submission.keys))
    (container,) = yaml.safe_load(manifest)["spec"]["workers"]["template"]["spec"]["containers"]
    assert container == {"name": "worker", "env": [{"name": VARIABLE, "valueFrom": variable.value_from}]}
    assert f"kubectl --namespace team create secret generic my-evals-keys --from-literal={VARIABLE}=KEY" in manifest
    assert submission.bundle is not None
    seen = (manifest, repr(submission), str(spec), spec.model_dump_json(), submission.bundle.data.decode("latin-1"))
    assert not any(KEY in text for text in seen)


def test_a_spec_without_keys_stays_as_it_is(tmp_path: Path) -> None:
    spec = asked(tmp_path).spec(1)
    assert with_keys(spec, "my-evals", {}) is spec


def test_a_row_that_was_answered_again_counts_once_and_its_last_answer_does() -> None:
    first: dict[str, list[Any]] = {
        "_row": [7, 3, 5],
        "question": ["7?", "3?", "5?"],
        "said": ["a", None, "b"],
        "error": [None, "no", None],
    }
    second: dict[str, list[Any]] = {"_row": [3, 1], "question": ["3?", "1?"], "said": ["c", "d"], "found": [["x"], []]}
    assert together([first, second]) == {
        "question": ["7?", "5?", "3?", "1?"],
        "said": ["a", "b", "c", "d"],
        "error": [None, None, None, None],
        "found": [None, None, ["x"], []],
    }
    assert together([]) == {}
    assert together([{"said": ["a"]}, {"said": ["a"]}]) == {"said": ["a", "a"]}


def evals_run(index: int = 1, state: str = "Running", **config: Any) -> Run:
    usual = {"vllm_config": {"model_config": {"model": "m"}, "sampling_params": {"top_p": 0.9}}, "batch_size": 8}
    checkpoint = {"path": "p", "digest": "0" * 64, "step": 4}
    return Run.from_body(
        {
            "metadata": {"name": f"e-r{index}", "uid": f"u{index}"},
            "spec": {"experimentRef": "e", "index": index, "config": {**usual, **config}},
            "status": {
                "state": state,
                "prepared": {"totalSteps": 10, "boundaries": [4, 7, 10], "bytes": 1},
                "progress": {"attempt": 1, "chunk": 0, "step": 4, "checkpoint": checkpoint},
            },
        }
    )


def test_cumulative_metrics_begin_with_the_run_and_its_knobs() -> None:
    accuracy = {"value": 0.5, "lower_bound": 0.4, "upper_bound": 0.6}
    metrics = cumulative_metrics(evals_run(3), {"Samples Processed": {"value": 4}, "Accuracy": accuracy})
    assert metrics == {
        "run_id": {"value": 3},
        "model_name": {"value": "m"},
        "model_config": {"value": {"model": "m"}},
        "sampling_params": {"value": {"top_p": 0.9}},
        "batch_size": {"value": 8},
        "Samples Processed": {"value": 4},
        "Accuracy": accuracy,
    }
    assert list(metrics)[:2] == ["run_id", "model_name"]


def test_settings_show_names_in_place_of_objects_and_keys() -> None:
    loader = {"$ref": {"bundle": "0" * 64, "key": "k", "label": "Answers"}}
    rag = {"document_loader": loader, "search_type": "mmr", "embedding_cls": {"$class": "langchain:Embeddings"}}
    client = {"api_key": {"$env": VARIABLE}, "base_url": "http://x"}
    settings = settings_of({"api_config": {"model_config": {"model": "m"}, "client_config": client, "rag": rag}})
    assert settings["document_loader"] == "Answers"
    assert settings["embedding_cls"] == "Embeddings"
    assert settings["client_config"] == {"api_key": f"${VARIABLE}", "base_url": "http://x"}
    assert settings["search_type"] == "mmr"


def test_runs_have_shards_in_place_of_chunks() -> None:
    (record,) = evals_records([evals_run()], 3)
    assert list(record) == [
        "run_id", "status", "metric_run_id", "completed_steps", "total_steps", "num_shards_visited", "num_shards",
        "error", "source", "ended_by", "cloned_from", "estimated_runtime", "required_workers", "config",
    ]  # fmt: skip
    assert (record["status"], record["num_shards_visited"], record["num_shards"]) == (RunStatus.ONGOING, 1, 3)
    assert (record["completed_steps"], record["total_steps"]) == (4, 10)


def test_of_a_log_only_what_was_estimated_after_shards_counts() -> None:
    lines = [MetricLine("log", 1, 2, 0.0, {"a": 1.0}), MetricLine("shard", 1, 4, 0.0, {"Accuracy": 0.5})]
    assert [line.step for line in shard_lines(lines)] == [4]


def test_without_the_library_that_reads_answers_nobody_waits_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from rapidfireai.answers import check_reader

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ExperimentError, match="pip install pyarrow"):
        check_reader()
