"""Code and data of an experiment, as the API server takes and refuses them."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import yaml

from rapidfireai.api.code import MAX_SOURCE

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("crds")]
Kubectl = Callable[..., str]
DIGEST = "ab" * 32
_names = (f"code-and-data-{number}" for number in itertools.count())


def experiment(name: str, **spec: object) -> str:
    body = {
        "apiVersion": "rapidfire.ai/v1alpha1",
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "configs": [{"trainer": "SFT", "config": {"formatting_func": {"$function": "as_chat"}}}],
            "data": {"train": {"uri": "pvc://data/train.jsonl"}},
            **spec,
        },
    }
    return yaml.safe_dump(body)


@pytest.mark.parametrize(
    "code",
    [
        {"bundle": DIGEST, "python": "3.11"},
        {"source": "def as_chat(row): ...\n" + "#" * (MAX_SOURCE - 22), "createModel": "load"},
        {"configMap": {"name": "functions"}},
        {"configMap": {"name": "functions", "key": "sft.py"}, "createModel": "load"},
        {"createModel": "our.models:load"},
    ],
)
def test_every_kind_of_code_is_taken_and_fixed(kubectl: Kubectl, code: dict[str, object]) -> None:
    name = next(_names)
    assert "created" in kubectl("apply", "-f", "-", stdin=experiment(name, code=code))
    patched = kubectl("patch", "rfexp", name, "--type=merge", "-p", '{"spec":{"code":{"createModel":"other"}}}')
    assert "code is fixed once the experiment exists" in patched


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        ({"source": "a = 1", "configMap": {"name": "functions"}}, "write one of bundle, source and configMap"),
        ({}, "write source or configMap, or leave code out"),
        ({"bundle": DIGEST}, "bundle and python go together"),
        ({"bundle": DIGEST, "python": "3.11", "createModel": "load"}, "a bundle has its own create_model_fn"),
        ({"source": "#" * (MAX_SOURCE + 1)}, "spec.code.source"),
        ({"source": "a = 1", "createModel": "not a name"}, "spec.code.createModel"),
    ],
)
def test_code_that_cannot_be_meant_is_refused(kubectl: Kubectl, code: dict[str, object], sentence: str) -> None:
    assert sentence in kubectl("apply", "-f", "-", stdin=experiment(next(_names), code=code))


@pytest.mark.parametrize(
    "source",
    [
        {"uri": "hf://owner/name", "config": "main", "revision": "v1", "split": "train[:10]"},
        {"uri": "pvc://claim/folder/*.parquet"},
        {"uri": "https://example.org/rows.jsonl?download=1"},
        {"uri": "http://example.org/rows.jsonl"},
        {"uri": "s3://bucket/rows/"},
        {"uri": "gs://bucket/rows.csv"},
        {"uri": f"blob://sha256/{DIGEST}"},
    ],
)
def test_every_kind_of_data_set_is_taken(kubectl: Kubectl, source: dict[str, object]) -> None:
    assert "created" in kubectl("apply", "-f", "-", stdin=experiment(next(_names), data={"train": source}))


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"uri": "ftp://example.org/rows.jsonl"}, "write pvc://CLAIM/path"),
        ({"uri": "https://me:secret@example.org/rows.jsonl"}, "a user name and password do not belong in it"),
        ({"uri": "pvc://claim/rows.jsonl", "revision": "v1"}, "config and revision belong to an hf:// data set"),
        ({"uri": "pvc://claim/rows.jsonl", "config": "main"}, "config and revision belong to an hf:// data set"),
    ],
)
def test_a_data_set_that_cannot_be_meant_is_refused(kubectl: Kubectl, source: dict[str, object], sentence: str) -> None:
    assert sentence in kubectl("apply", "-f", "-", stdin=experiment(next(_names), data={"train": source}))
