"""The functions of a manifest, judged without running them, and how a ConfigMap's source reaches the workers."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator.builders import experiment

from rapidfireai.api import ExperimentSpec
from rapidfireai.api.experiment import ExperimentStatus
from rapidfireai_operator.core.acceptance import Accepted, Refused, judge
from rapidfireai_operator.core.jobs import WorkerDefaults, manifest
from rapidfireai_operator.core.snapshot import Subject

SOURCE = """
from helpers import as_answer

def as_chat(row):
    inner = 1
    return row

if True:
    class Reward:
        pass

with open("x") as opened:
    scale, = 1,
"""


def judged(function: object, **code: Any) -> Accepted | Refused:
    groups = [{"trainer": "SFT", "config": {"model_name": "m", "formatting_func": function}}]
    spec = {**experiment()["spec"], "configs": groups, **({"code": code} if code else {})}
    return judge("exp", spec, allow_file_uris=False)


@pytest.mark.parametrize("name", ["as_chat", "as_answer", "Reward", "opened", "scale", "installed.module:anything"])
def test_names_of_the_source_and_of_installed_modules_are_accepted(name: str) -> None:
    assert isinstance(judged({"$function": name}, source=SOURCE), Accepted)


def test_functions_may_be_knobs() -> None:
    knob = {"$list": [{"$function": "as_chat"}, {"$function": "as_answer"}]}
    verdict = judged(knob, source=SOURCE, createModel="Reward")
    assert isinstance(verdict, Accepted)
    chosen = [leaf["additional_kwargs"]["formatting_func"] for leaf in verdict.leaves]
    assert chosen == [{"$function": "as_chat"}, {"$function": "as_answer"}]


@pytest.mark.parametrize("code", [{"source": "from helpers import *\n"}, {"configMap": {"name": "functions"}}])
def test_what_only_workers_can_know_is_left_to_them(code: dict[str, Any]) -> None:
    assert isinstance(judged({"$function": "whatever"}, **code), Accepted)


def test_an_installed_function_needs_no_source() -> None:
    assert isinstance(judged({"$function": "our.rows:as_chat"}), Accepted)


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        (
            {"$list": [{"$function": "as_chat"}, {"$function": "as_caht"}]},
            {"source": SOURCE},
            [
                "spec.configs[0].config.formatting_func.$list[1]: spec.code.source does not define 'as_caht'; "
                "did you mean as_chat?",
                "written module:name",
            ],
        ),
        ({"$function": "inner"}, {"source": SOURCE}, ["does not define 'inner'; define it at the top level"]),
        ({"$function": "as_chat"}, {}, ["'as_chat' is defined nowhere: give spec.code.source or spec.code.configMap"]),
        (
            {"$function": "as_chat"},
            {"source": SOURCE, "createModel": "load"},
            ["spec.code.createModel: spec.code.source does not define 'load'"],
        ),
        (
            {"$function": "f"},
            {"source": "a = 1\ndef f(:\n    pass\n"},
            ["spec.code.source: line 2: invalid syntax: def f(:"],
        ),
        (
            {"$function": "f"},
            {"source": "def f():\nreturn 1"},
            ["spec.code.source: line 2: expected an indented block"],
        ),
        ({"$function": "f"}, {"source": "a = 1\0"}, ["spec.code.source", "null bytes"]),
        ({"$function": "f"}, {"source": "a" + ".a" * 20000}, ["spec.code.source: is nested too deeply"]),
        ({"$function": "f"}, {"source": "-" * 30000 + "1"}, ["spec.code.source: is nested too deeply"]),
    ],
)
def test_a_mistake_in_code_is_answered_with_the_place_and_the_fix(
    function: object, code: dict[str, Any], words: list[str]
) -> None:
    verdict = judged(function, **code)
    assert isinstance(verdict, Refused)
    assert verdict.reason == "InvalidCode"
    for word in words:
        assert word in verdict.message


@pytest.mark.parametrize("value", ["1name", "a:b:c", "a.b", "", None, 3, ["a"]])
def test_what_names_no_function_is_refused(value: object) -> None:
    verdict = judged({"$function": value}, source=SOURCE)
    assert isinstance(verdict, Refused)
    assert "spec.configs[0].config.formatting_func: $function takes the name of a function" in verdict.message


def test_workers_get_the_source_of_a_config_map_as_a_variable() -> None:
    body = experiment(code={"configMap": {"name": "functions", "key": "sft.py"}})
    spec = ExperimentSpec.model_validate(body["spec"])
    defaults = WorkerDefaults("image", {}, "rapidfire-data", "/data", 30)
    subject = Subject("default", "exp", "1", 1, "1", leaving=False, body=body, status=ExperimentStatus())
    job = manifest(subject, spec, "exp-w-0", defaults, {})
    variables = job["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {
        "name": "RAPIDFIRE_CODE",
        "valueFrom": {"configMapKeyRef": {"name": "functions", "key": "sft.py"}},
    } in variables
