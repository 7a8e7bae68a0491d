"""What is accepted, and that whatever else comes gets a sentence with the field and the fix."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.operator.builders import evaluation, experiment

from rapidfireai_operator.core.acceptance import LONGEST_NAME, Accepted, Refused, judge, ranked_by

METRICS = {"$ref": {"bundle": "0" * 64, "key": "f", "label": "f"}}


def spec(**more: Any) -> dict[str, Any]:
    return {**experiment()["spec"], **more}


def refused(given_spec: object, name: str = "exp", *, allow_file_uris: bool = False) -> Refused:
    verdict = judge(name, given_spec, allow_file_uris=allow_file_uris)
    assert isinstance(verdict, Refused)
    return verdict


def test_a_grid_is_accepted_with_its_leaves_and_claims() -> None:
    data = {"train": {"uri": "pvc://sets/a.jsonl"}, "eval": {"uri": "pvc://more.sets/b.jsonl"}}
    config = {"model_name": "pvc://models/tiny", "training_args": {"learning_rate": {"$list": [1e-4, 1e-3]}}}
    verdict = judge("exp", spec(data=data, configs=[{"trainer": "SFT", "config": config}]), allow_file_uris=False)
    assert isinstance(verdict, Accepted)
    assert len(verdict.leaves) == 2
    assert verdict.claims == {"sets", "more.sets", "models"}


def test_reference_and_reward_models_lie_on_claims_too() -> None:
    configs = [
        {"trainer": "DPO", "config": {"model_name": "m", "ref_model_name": "pvc://refs/a"}},
        {"trainer": "GRPO", "config": {"model_name": "m", "reward_funcs": ["pvc://judges/a", "hub/name"]}},
    ]
    verdict = judge("exp", spec(configs=configs), allow_file_uris=False)
    assert isinstance(verdict, Accepted)
    assert verdict.claims == {"refs", "judges"}


def test_a_random_search_makes_as_many_runs_as_it_says() -> None:
    rate = {"$range": {"start": 1e-5, "end": 1e-3, "log": True}}
    config = {"model_name": "m", "training_args": {"learning_rate": rate}}
    group = {"trainer": "SFT", "strategy": "random", "numRuns": 7, "seed": 1, "config": config}
    verdict = judge("exp", spec(configs=[group]), allow_file_uris=False)
    assert isinstance(verdict, Accepted)
    assert len({leaf["training_args"]["learning_rate"] for leaf in verdict.leaves}) == 7


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"configs": []}, "InvalidSpec", ["spec.configs", "at least 1 item"]),
        ({"chunks": "four"}, "InvalidSpec", ["spec.chunks", "integer", "'four'"]),
        (
            {"data": {"train": {"uri": "file:///x.jsonl"}}},
            "FileUriRefused",
            ["spec.data.train.uri", "pvc://CLAIM/path"],
        ),
        ({"objective": {"direction": "maximize"}}, "InvalidObjective", ["spec.objective.direction", "minimize"]),
        (
            {"objective": {"metric": "eval_accuracy"}, "data": {"train": {"uri": "hf://a"}}},
            "InvalidObjective",
            ["spec.objective.metric", "spec.data.eval"],
        ),
        (
            {"configs": [{"trainer": "SFT", "config": {"model_name": "m", "training_args": {"learning_rte": 1}}}]},
            "InvalidConfig",
            ["spec.configs[0].config.training_args.learning_rte", "learning_rate"],
        ),
        (
            {"configs": [{"trainer": "SFT", "config": {"training_args": {"learning_rate": {"$range": {"start": 0}}}}}]},
            "InvalidConfig",
            ["spec.configs[0].config.training_args.learning_rate"],
        ),
        (
            {"configs": [{"trainer": "SFT", "config": {"training_args": {"seed": {"$list": list(range(10_001))}}}}]},
            "InvalidConfig",
            ["spec.configs", "10001", "10000", "spec.maxRuns"],
        ),
        (
            {
                "configs": [{"trainer": "SFT", "config": {"generation_config": {}, "compute_metrics": METRICS}}],
                "data": {"train": {"uri": "hf://a"}},
            },
            "InvalidConfig",
            ["spec.data.eval", "generation_config"],
        ),
    ],
)
def test_a_mistake_is_answered_with_the_field_and_the_fix(
    change: dict[str, Any], reason: str, words: list[str]
) -> None:
    verdict = refused(spec(**change))
    assert verdict.reason == reason
    for word in words:
        assert word in verdict.message


def test_fields_of_a_newer_version_are_passed_over_while_an_older_operator_still_leads() -> None:
    newer = spec(suspendUntil="noon", workers={"template": {"spec": {"serviceAccountName": "admin"}}})
    verdict = judge("exp", newer, allow_file_uris=False)
    assert isinstance(verdict, Accepted)
    assert "admin" not in verdict.spec.model_dump_json()


def evals(**more: Any) -> dict[str, Any]:
    return {**evaluation()["spec"], **more}


def test_an_evaluation_is_accepted_with_its_leaves_and_whatever_claims_it_names() -> None:
    rag = {"embedding_cls": {"$class": "lib:Embeddings"}, "embedding_kwargs": {"model_name": "pvc://embedders/mini"}}
    prompts = {"instructions": "see pvc://nothing/here"}
    models = {"$list": ["pvc://models/a", "pvc://models/b"]}
    model = {"model_config": {"model": models}, "rag": rag, "prompt_manager": prompts}
    data = {"eval": {"uri": "pvc://sets/q.jsonl"}, "documents": {"uri": "pvc://library/docs.jsonl"}}
    verdict = judge("exp", evals(data=data, configs=[{"config": {"vllm_config": model}}]), allow_file_uris=False)
    assert isinstance(verdict, Accepted), verdict
    assert [leaf["vllm_config"]["model_config"]["model"] for leaf in verdict.leaves] == [
        "pvc://models/a",
        "pvc://models/b",
    ]
    assert verdict.claims == {"sets", "library", "models", "embedders"}


@pytest.mark.parametrize("objective", [{}, {"direction": "maximize"}, {"metric": "Loss", "direction": "maximize"}])
def test_an_evaluation_may_be_ranked_by_any_metric_or_by_none(objective: dict[str, Any]) -> None:
    verdict = judge("exp", evals(objective=objective), allow_file_uris=False)
    assert isinstance(verdict, Accepted)
    assert ranked_by(verdict.spec) == objective.get("metric")


@pytest.mark.parametrize(
    ("change", "reason", "words"),
    [
        ({"data": {}}, "InvalidSpec", ["spec.data.eval", "required with mode evals"]),
        (
            {"data": {"eval": {"uri": "hf://a"}, "train": {"uri": "hf://a"}}},
            "InvalidSpec",
            ["spec.data.train", "leave it out"],
        ),
        (
            {"configs": [{"trainer": "SFT", "config": {"model_name": "m"}}]},
            "InvalidSpec",
            ["spec.configs[0].trainer", "leave it out, or write mode: fit"],
        ),
        (
            {"data": {"eval": {"uri": "hf://a"}, "documents": {"uri": "file:///docs.jsonl"}}},
            "FileUriRefused",
            ["spec.data.documents.uri", "pvc://CLAIM/path"],
        ),
        (
            {"objective": {}, "policies": [{"stopWhenBeaten": {}}]},
            "InvalidPolicy",
            ["spec.policies[0].stopWhenBeaten", "spec.objective.metric", "eval_loss"],
        ),
        ({"configs": [{"config": {"vllm_confg": {}}}]}, "InvalidConfig", ["spec.configs[0].config", "vllm_confg"]),
    ],
)
def test_a_mistake_in_an_evaluation_is_answered_alike(change: dict[str, Any], reason: str, words: list[str]) -> None:
    verdict = refused(evals(**change))
    assert verdict.reason == reason
    for word in words:
        assert word in verdict.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"configs": [{"config": {"model_name": "m"}}]}, ["spec.configs[0].trainer", "SFT, DPO or GRPO"]),
        ({"data": {"eval": {"uri": "hf://a"}}}, ["spec.data.train", "required with mode fit"]),
        (
            {"data": {"train": {"uri": "hf://a"}, "documents": {"uri": "hf://a"}}},
            ["spec.data.documents", "belongs to mode evals"],
        ),
        ({"policies": [{"stopWhenBeaten": {}}]}, ["spec.policies[0].stopWhenBeaten", "stopWhenWorse"]),
    ],
)
def test_what_belongs_to_evaluations_is_refused_elsewhere(change: dict[str, Any], words: list[str]) -> None:
    verdict = refused(spec(**change))
    for word in words:
        assert word in verdict.message


def test_a_name_that_workers_could_not_be_named_after_is_refused() -> None:
    assert refused(spec(), "x" * (LONGEST_NAME + 1)).reason == "NameTooLong"
    assert isinstance(judge("x" * LONGEST_NAME, spec(), allow_file_uris=False), Accepted)


def test_files_are_accepted_where_the_disk_is_shared() -> None:
    data = {"train": {"uri": "file:///x.jsonl"}}
    assert isinstance(judge("exp", spec(data=data), allow_file_uris=True), Accepted)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=8)
            | st.sampled_from(
                [
                    "$list",
                    "$range",
                    "$none",
                    "$ref",
                    "training_args",
                    "peft_config",
                    "model_kwargs",
                    "configs",
                    "data",
                    "documents",
                    "mode",
                    "vllm_config",
                    "workers",
                ]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=12,
)


@given(json_values)
@settings(max_examples=300, deadline=None)
def test_no_spec_crashes_the_judge(value: Any) -> None:
    verdict = judge("exp", value, allow_file_uris=True)
    assert isinstance(verdict, Accepted | Refused)


@given(
    json_values,
    st.sampled_from(["config", "resources", "tolerations", "affinity", "env", "training_args", "peft_config"]),
)
@settings(max_examples=300, deadline=None)
def test_no_free_form_part_crashes_the_judge(value: Any, where: str) -> None:
    """These are the places where the API server lets anything through."""
    body = copy.deepcopy(experiment()["spec"])
    container: dict[str, Any] = {"name": "worker"}
    pod: dict[str, Any] = {"containers": [container]}
    if where == "config":
        body["configs"][0]["config"] = value
    elif where in {"training_args", "peft_config"}:
        body["configs"][0]["config"][where] = value
    elif where == "resources":
        container["resources"] = value
    elif where == "env":
        container["env"] = [{"name": "A", "valueFrom": value}]
    else:
        pod[where] = value
    body["workers"]["template"] = {"spec": pod}
    verdict = judge("exp", body, allow_file_uris=True)
    assert isinstance(verdict, Accepted | Refused)
    if isinstance(verdict, Refused):
        assert verdict.message.startswith("spec")
