"""The resources as the API server serves them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("crds")]
Kubectl = Callable[..., str]
LOST, NEIGHBOUR = "0a0a0a0a-0000-4000-8000-000000000001", "0a0a0a0a-0000-4000-8000-000000000002"
ROWS = {"uri": "pvc://data/rows.jsonl"}


def experiment(**spec: object) -> str:
    body = {
        "apiVersion": "rapidfire.ai/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": "e"},
        "spec": {
            "configs": [{"trainer": "SFT", "config": {"model_name": "m"}}],
            "data": {"train": {"uri": "file:///data/train.jsonl"}},
            **spec,
        },
    }
    return yaml.safe_dump(body)


def adoption(experiment: str = LOST, checkpoint: str = LOST, runs: int = 1) -> dict[str, Any]:
    path = f"experiments/{checkpoint}/runs/{LOST}/checkpoints/8-3"
    run = {
        "experimentUID": experiment,
        "runUID": LOST,
        "checkpoint": {"path": path, "digest": "0" * 64, "step": 8},
        "prepared": {"totalSteps": 8, "boundaries": [2, 4, 6, 8]},
    }
    return {"uid": LOST, "nextIndex": runs + 1, "runs": [{"index": i, "adopted": run} for i in range(1, runs + 1)]}


def test_a_small_experiment_is_accepted_and_completed_with_defaults(kubectl: Kubectl) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=experiment())
    seen = kubectl("get", "rfexp", "e", "-o", "jsonpath={.spec.chunks} {.spec.seed} {.spec.objective.metric}")
    assert seen == "4 42 eval_loss"


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"chunk": 4}, 'unknown field "spec.chunk"'),
        ({"chunks": "four"}, "spec.chunks"),
        ({"chunks": 0}, "should be greater than or equal to 1"),
        ({"configs": []}, "spec.configs"),
        ({"configs": [{"trainer": "SFT", "strategy": "random", "config": {}}]}, "random needs numRuns"),
        ({"configs": [{"trainer": "SFT", "numRuns": 2, "config": {}}]}, "numRuns and seed belong to strategy random"),
        ({"configs": [{"trainer": "PPO", "config": {}}]}, 'supported values: "SFT", "DPO", "GRPO"'),
        ({"mode": "train"}, 'supported values: "fit", "evals"'),
        ({"configs": [{"config": {}}]}, "mode fit needs trainer"),
        ({"data": {"eval": {"uri": "pvc://data/rows.jsonl"}}}, "mode fit needs data.train"),
        ({"data": {"train": ROWS, "documents": ROWS}}, "data.documents belongs to mode evals"),
        ({"mode": "evals", "data": {"eval": ROWS}}, "mode evals trains nothing"),
        ({"mode": "evals", "configs": [{"config": {}}]}, "mode evals needs data.eval"),
        ({"mode": "evals", "configs": [{"config": {}}], "data": {"eval": ROWS}, "shards": 0}, "spec.shards"),
        ({"data": {"train": {"uri": "/data/train.jsonl"}}}, "write pvc://CLAIM/path"),
        ({"adopted": {"uid": "../../etc"}}, "spec.adopted.uid"),
        ({"adopted": adoption(experiment=NEIGHBOUR)}, "write its uid as experimentUID"),
        ({"adopted": adoption(checkpoint=NEIGHBOUR)}, "checkpoint.path lies in the run's own directory"),
        ({"adopted": {**adoption(), "runs": 2 * adoption()["runs"]}}, "Duplicate value"),
    ],
)
def test_nonsense_is_refused_with_the_field_and_the_fix(
    kubectl: Kubectl, spec: dict[str, object], sentence: str
) -> None:
    assert sentence in kubectl("apply", "-f", "-", stdin=experiment(**spec))


def test_an_evaluation_needs_rows_and_configs_alone(kubectl: Kubectl) -> None:
    manifest = experiment(mode="evals", configs=[{"config": {}}], data={"eval": ROWS})
    assert "created" in kubectl("apply", "-f", "-", stdin=manifest)
    assert kubectl("get", "rfexp", "e", "-o", "jsonpath={.spec.shards}") == "4"
    answer = kubectl("patch", "rfexp", "e", "--type=merge", "-p", '{"spec":{"shards":8}}')
    assert "shards is fixed once the experiment exists" in answer


def test_what_is_fixed_says_so(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=experiment())
    answer = kubectl("patch", "rfexp", "e", "--type=merge", "-p", '{"spec":{"seed":1}}')
    assert "seed is fixed once the experiment exists" in answer


def test_what_was_adopted_is_fixed_however_much_it_is(kubectl: Kubectl) -> None:
    many = adoption(runs=2000)
    assert "created" in kubectl("create", "-f", "-", stdin=experiment(adopted=many))
    assert "adopted is fixed" in kubectl("replace", "-f", "-", stdin=experiment(adopted={**many, "nextIndex": 9}))


def test_the_number_of_runs_may_be_raised_and_not_lowered(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=experiment())
    assert "patched" in kubectl("patch", "rfexp", "e", "--type=merge", "-p", '{"spec":{"maxRuns":20000}}')
    assert "maxRuns can be raised but not lowered" in kubectl(
        "patch", "rfexp", "e", "--type=merge", "-p", '{"spec":{"maxRuns":10000}}'
    )


def test_workers_scale(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=experiment())
    assert "scaled" in kubectl("scale", "rfexp", "e", "--replicas=3")
    assert kubectl("get", "rfexp", "e", "-o", "jsonpath={.spec.workers.replicas}") == "3"


def test_every_field_is_explained(kubectl: Kubectl) -> None:
    assert "how many chunks one epoch is cut into" in kubectl("explain", "rfexp.spec.chunks")
    assert "<no description>" not in kubectl("explain", "rfexp.spec")


def test_columns_answer_what_is_going_on(kubectl: Kubectl) -> None:
    kubectl("apply", "-f", "-", stdin=experiment())
    header = kubectl("get", "rfexp").splitlines()[0].split()
    assert header == ["NAME", "MODE", "STATE", "RUNS", "ACTIVE", "CHUNKS", "WORKERS", "BEST", "ETA", "AGE"]
