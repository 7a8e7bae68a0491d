"""Experiments as YAML, for kubectl's parser and people."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from tests.conftest import Kubectl

from rapidfireai.api.code import Code
from rapidfireai.api.data import Data, DataSource
from rapidfireai.api.experiment import ConfigGroup, ExperimentSpec
from rapidfireai.api.workers import Workers
from rapidfireai.automl import List, Range, RFLoraConfig, RFModelConfig, RFRandomSearch, RFSFTConfig
from rapidfireai.automl.search import groups_of
from rapidfireai.expand import expand
from rapidfireai.manifest import to_yaml

MISTAKABLE = (
    "1e4", "12e4567", "0o17", "012", "0x1f", "0b1", "1_000", "12:30:45", "2020-01-01", "+1", "-1", ".5", ".inf", ".nan",
    "y", "n", "yes", "no", "on", "Off", "true", "null", "~", "=", "<<", "", " padded ", "a: b", "a #b", "- a", "&a",
    "*a", "!a", "%a", "@a", "`a`", "[a]", "{a}", "'a'", '"a"', "two\nlines", "tab\there", "back\\slash", "\u00e9\u4e2d",
    "\U0001f680", "\u2028", "\x07", "a" * 200,
)  # fmt: skip


def spec_of(config: Any, **more: Any) -> ExperimentSpec:
    return ExperimentSpec(
        configs=[ConfigGroup(trainer="SFT", config=config)], data=Data(train=DataSource(uri="hf://x/y")), **more
    )


def test_a_manifest_says_what_decides_the_runs_and_nothing_that_is_default_anyway() -> None:
    spec = spec_of({"model_name": "m"}, display_name="My Sweep", workers=Workers(replicas=2))
    assert to_yaml("my-sweep", "team", spec, "one", "two") == (
        "# one\n"
        "# two\n"
        "apiVersion: rapidfire.ai/v1alpha1\n"
        "kind: Experiment\n"
        "metadata:\n"
        "  name: my-sweep\n"
        "  namespace: team\n"
        "  labels:\n"
        "    app.kubernetes.io/managed-by: rapidfireai-sdk\n"
        "spec:\n"
        "  displayName: My Sweep\n"
        "  mode: fit\n"
        "  seed: 42\n"
        "  chunks: 4\n"
        "  configs:\n"
        "  - trainer: SFT\n"
        "    config:\n"
        "      model_name: m\n"
        "  data:\n"
        "    train:\n"
        "      uri: hf://x/y\n"
        "  workers:\n"
        "    replicas: 2\n"
    )


def test_equal_values_are_written_out_each_time() -> None:
    shared = {"dtype": "float32"}
    written = to_yaml("e", "default", spec_of({"model_kwargs": {"a": shared, "b": shared}}))
    assert "&" not in written
    assert written.count("dtype: float32") == 2


@pytest.mark.integration
def test_kubectl_reads_every_text_and_number_as_it_was(crds: None, kubectl: Kubectl, namespace: str) -> None:
    config = {
        "model_name": "m",
        "model_kwargs": {
            "texts": list(MISTAKABLE),
            "keys": {text: index for index, text in enumerate(MISTAKABLE)},
            "numbers": [1, 0.0001, 1e-05, 1e22, -0.5, 2**53 - 1, True, False, None],
        },
    }
    spec = spec_of(config, code=Code(bundle="0" * 64, python="3.11"))
    written = to_yaml("e", namespace, spec)
    assert yaml.safe_load(written)["spec"]["configs"][0]["config"] == config
    assert "created" in kubectl("apply", "-f", "-", stdin=written)
    read = json.loads(kubectl("get", "rfexp", "e", "-o", "json"))
    assert ExperimentSpec.model_validate(read["spec"]) == spec


@pytest.mark.integration
@pytest.mark.parametrize("how", [[], ["--server-side"]])
def test_what_kubectl_applies_expands_to_the_same_runs_in_the_same_order(
    crds: None, kubectl: Kubectl, namespace: str, how: list[str]
) -> None:
    config = RFModelConfig(
        model_name="m",
        peft_config=[RFLoraConfig(r=8, lora_dropout=List([0.0, 0.1])), RFLoraConfig(r=16, target_modules=["a", "b"])],
        training_args=RFSFTConfig(learning_rate=List([1.0, 1e-5, 2]), max_length=List([None, 64])),
        model_kwargs={"revision": List(["1e4", "012", "no"]), "nothing": None},
    )
    drawn = RFModelConfig(model_name="m", training_args=RFSFTConfig(learning_rate=Range(1e-5, 1e-3, log=True)))
    groups = groups_of([config, RFRandomSearch(drawn, num_runs=5, seed=7)], lambda value, path: {})
    spec = ExperimentSpec(configs=groups, data=Data(train=DataSource(uri="hf://x/y")))
    answer = kubectl("apply", *how, "-f", "-", stdin=to_yaml("e", namespace, spec))
    assert ("serverside-applied" if how else "created") in answer
    read = ExperimentSpec.model_validate(json.loads(kubectl("get", "rfexp", "e", "-o", "json"))["spec"])
    runs = expand(read.configs)
    assert len(runs) == 54 + 5
    assert runs == expand(groups)
    assert [repr(run) for run in runs] == [repr(run) for run in expand(groups)]
