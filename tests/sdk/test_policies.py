"""Policies as Python objects: what the manifest gets, and what is said of mistakes."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from rapidfireai.api.experiment import ExperimentSpec
from rapidfireai.manifest import to_yaml
from rapidfireai.policies import MaxCost, MaxDuration, StopWhenWorse, SuccessiveHalving, policies_of


def test_objects_and_mappings_say_the_same() -> None:
    objects = [
        SuccessiveHalving(eta=2),
        StopWhenWorse(min_chunks=2),
        MaxDuration(limit="8h"),
        MaxCost(limit=20, price_per_worker_hour=2.5),
    ]
    wire = [each.to_wire() for each in policies_of(objects)]
    assert wire == [
        {"successiveHalving": {"eta": 2, "minChunks": 1}},
        {"stopWhenWorse": {"minChunks": 2, "minRuns": 3}},
        {"maxDuration": {"limit": "8h"}},
        {"maxCost": {"limit": 20.0, "pricePerWorkerHour": 2.5}},
    ]
    assert [each.to_wire() for each in policies_of(wire)] == wire
    assert policies_of([{"successive_halving": {"min_chunks": 2}}])[0].to_wire() == {
        "successiveHalving": {"eta": 3, "minChunks": 2}
    }
    assert policies_of(None) == []


def test_a_manifest_holds_a_policy_of_defaults() -> None:
    spec = ExperimentSpec.model_validate(
        {
            "configs": [{"trainer": "SFT", "config": {"model_name": "m"}}],
            "data": {"train": {"uri": "hf://owner/rows"}},
            "policies": [each.to_wire() for each in policies_of([SuccessiveHalving()])],
        }
    )
    body = yaml.safe_load(to_yaml("e", "default", spec))
    assert ExperimentSpec.model_validate(body["spec"]).policies == spec.policies


@pytest.mark.parametrize(
    ("given", "error", "sentence"),
    [
        ({"successiveHalving": {}}, TypeError, "policies must be a list of policies"),
        (["successiveHalving"], TypeError, "policies[0]: 'successiveHalving' is no policy; write one of"),
        ([{"successiveHalving": {"etta": 3}}], ValueError, "policies[0].successiveHalving.etta: Extra inputs"),
        ([{"maxDuration": {"limit": "soon"}}], ValueError, "write a duration such as 90m, 8h or 1d12h"),
        ([{}], ValueError, "policies[0]: write exactly one of"),
        ([SuccessiveHalving(), SuccessiveHalving(eta=2)], ValueError, "successive_halving is there twice"),
    ],
)
def test_mistakes_name_the_place_and_the_fix(given: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error) as raised:
        policies_of(given)
    assert sentence in str(raised.value)
