"""Which fields definitions of an older version drop."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from rapidfireai_operator.core.conditions import Verdict, judged
from rapidfireai_operator.core.definitions import currency, missing_fields
from rapidfireai_operator.core.news import is_bad, is_news
from rapidfireai_operator.loops.definitions import outdated

CRDS = Path(__file__).resolve().parents[2] / "crds"


def described() -> dict[str, Any]:
    """What an API server says that has the definitions of this version."""
    schemas = {}
    for path in CRDS.glob("*.yaml"):
        spec = yaml.safe_load(path.read_text())["spec"]
        schemas[f"ai.rapidfire.v1alpha1.{spec['names']['kind']}"] = spec["versions"][0]["schema"]["openAPIV3Schema"]
    return {"components": {"schemas": schemas}}


def test_definitions_of_this_version_keep_everything() -> None:
    assert missing_fields(described()) == ()


@pytest.mark.parametrize(
    ("kind", "path", "field"),
    [
        ("Experiment", ("spec",), "suspend"),
        ("Experiment", ("spec", "policies", "[]"), "maxCost"),
        ("Run", ("status", "progress", "checkpoint"), "digest"),
        ("ICOp", ("status",), "results"),
        ("Experiment", (), "status"),
    ],
)
def test_a_field_that_is_dropped_is_named(kind: str, path: tuple[str, ...], field: str) -> None:
    older = copy.deepcopy(described())
    schema = older["components"]["schemas"][f"ai.rapidfire.v1alpha1.{kind}"]
    for step in path:
        schema = schema["items"] if step == "[]" else schema["properties"][step]
    del schema["properties"][field]
    assert missing_fields(older) == (".".join([kind, *path, field]).replace(".[]", "[]"),)


def test_the_sentence_names_three_fields_and_the_command() -> None:
    sentence = outdated(("Run.spec.a", "Run.spec.b", "Run.spec.c", "Run.spec.d"))
    assert "drop Run.spec.a, Run.spec.b, Run.spec.c and 1 more" in sentence
    assert "kubectl apply --server-side -f crds/" in sentence


def test_an_experiment_says_so_and_takes_it_back_and_else_says_nothing() -> None:
    assert currency([], "") == []
    (wrong,) = currency([], "They drop Run.spec.a.")
    assert wrong == Verdict("DefinitionsCurrent", "False", "OlderDefinitions", "They drop Run.spec.a.")
    assert is_news(None, wrong) and is_bad(wrong)
    told = judged([], [wrong], generation=1, now=0.0)
    (right,) = currency(told, "")
    assert (right.status, right.reason) == ("True", "Renewed")
