"""Functions of plain YAML: what they become in the worker, or a sentence that names the line and the fix."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from tests.fit import user_code
from tests.fit.reference import digest
from tests.support.lab import Lab, write_rows

from rapidfireai_worker.causes import Guarded
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.user_code.bundles import UserCode

pytestmark = pytest.mark.ml

SOURCE = """
import dataclasses

TURNS = []
TURNS.append("a")

@dataclasses.dataclass
class Turn:
    role: str

def as_chat(row):
    return {"turn": Turn("user").role, "loaded": len(TURNS)}

def raising(row):
    return row["no such column"]
"""


def job(lab: Lab, source: str | None = SOURCE, **more: Any) -> RunJob:
    return dataclasses.replace(lab.job("run", MappingProxyType({})), source=source, **more)


def failure(lab: Lab, value: object, source: str | None = SOURCE, **more: Any) -> RunFailure:
    with pytest.raises(RunFailure) as caught:
        UserCode(lab.volume).resolve(value, job(lab, source, **more))
    return caught.value


def test_names_become_functions_and_the_source_runs_once_a_process(lab: Lab) -> None:
    config = {"functions": [{"$function": "as_chat"}, {"deep": {"$function": "as_chat"}}], "plain": {"$list": [1]}}
    for _ in range(2):
        resolved = UserCode(lab.volume).resolve(config, job(lab))
        assert resolved["plain"] == {"$list": [1]}
        assert resolved["functions"][0] is resolved["functions"][1]["deep"]
        assert resolved["functions"][0]({}) == {"turn": "user", "loaded": 1}


def test_other_source_is_another_module(lab: Lab) -> None:
    other = SOURCE.replace('"user"', '"system"')
    functions = [UserCode(lab.volume).resolve({"$function": "as_chat"}, job(lab, text)) for text in (SOURCE, other)]
    assert [function({})["turn"] for function in functions] == ["user", "system"]
    assert all(function.__module__.startswith("_rapidfireai_source_") for function in functions)


def test_installed_modules_are_named_with_their_function(lab: Lab) -> None:
    assert UserCode(lab.volume).resolve({"$function": "os.path:join"}, job(lab, None))("a", "b") == "a/b"


def test_the_model_function_is_named_beside_the_source(lab: Lab) -> None:
    code = UserCode(lab.volume)
    made = code.create_model(job(lab, create_model="as_chat"))
    assert made is not None
    assert made.__name__ == "as_chat"
    assert code.create_model(job(lab)) is None


def test_a_failing_function_shows_the_users_own_line(lab: Lab) -> None:
    for name in ("spec.code.source", "ConfigMap functions/code.py"):
        source = f"# {name}\n{SOURCE}"
        function = UserCode(lab.volume).resolve({"$function": "raising"}, job(lab, source, source_name=name))
        with pytest.raises(RunFailure) as caught:
            Guarded(function, "formatting_func")({})
        line = source.splitlines().index('    return row["no such column"]') + 1
        head, *rest = caught.value.message.splitlines()
        assert head == f"formatting_func raised KeyError: 'no such column' at {name}:{line}, in raising"
        assert '    return row["no such column"]' in rest


@pytest.mark.parametrize(
    ("source", "reason", "words"),
    [
        (
            "import no_such_module\n",
            "UserCodeError",
            ["raised ModuleNotFoundError", "at spec.code.source:1, in <module>"],
        ),
        ("a = 1\nb = a / 0\n", "UserCodeError", ["ZeroDivisionError", "at spec.code.source:2", "b = a / 0"]),
        ("a = 1\ndef f(:\n", "InvalidCode", ["spec.code.source: line 2: invalid syntax: def f(:"]),
        ("a = 1\nreturn a\n", "InvalidCode", ["spec.code.source: line 2: 'return' outside function"]),
        ("def other(): ...\n_a = 1", "InvalidCode", ["spec.code.source has no function 'as_chat'; it has other"]),
        ("as_chat = 3", "InvalidCode", ["spec.code.source has no function 'as_chat'; it has none"]),
        (None, "InvalidCode", ["spec.code.source: is not there, and a config names 'as_chat' of it"]),
    ],
)
def test_source_that_cannot_be_loaded_names_the_line(
    source: str | None, reason: str, words: list[str], lab: Lab
) -> None:
    for _ in range(2):  # a module whose import failed is not there the second time either
        refused = failure(lab, {"$function": "as_chat"}, source)
        assert refused.reason == reason
        for word in words:
            assert word in refused.message


def test_an_installed_function_that_is_not_there_is_named(lab: Lab, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "needs_more_than_there_is.py").write_text("import no_such_module_either\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    absent = failure(lab, {"$function": "no_such.module:f"}, None)
    assert "no_such.module:f: this worker has no module 'no_such.module'; name an image" in absent.message
    broken = failure(lab, {"$function": "needs_more_than_there_is:f"}, None)
    assert "importing needs_more_than_there_is raised No module named 'no_such_module_either'" in broken.message
    nameless = failure(lab, {"$function": "os.path:no_such"}, None)
    assert "module os.path has no function 'no_such'" in nameless.message


def test_a_run_of_source_equals_that_of_the_same_functions_in_a_bundle(lab: Lab, tiny_model: Path) -> None:
    """The manifest of each checkpoint names the code, and a run does not go on with other code."""
    text = Path(user_code.__file__).read_text()
    write_rows(lab.root / "train.jsonl", [{"asked": f"{n}+1?", "answered": str(n + 1)} for n in range(24)])
    write_rows(lab.root / "eval.jsonl", [{"asked": "1+1?", "answered": "2"}])
    lab.chunks = 2
    config = {
        "trainer_type": "SFT",
        "model_name": str(tiny_model),
        "model_kwargs": {"scale": 1.5},
        "peft_params": {"r": 4, "target_modules": ["q_proj"]},
        "training_args": {"per_device_train_batch_size": 8, "num_train_epochs": 1, "logging_steps": 1},
    }
    references = lab.put_bundle(create_model_fn=user_code.create_model_fn, formatting_func=user_code.as_chat)
    bundled = {**config, "additional_kwargs": {"formatting_func": references["formatting_func"]}}
    lab.finish(FitEngine(lab.volume, lab.claims, threads=1), "bundled", bundled)
    lab.bundle = None
    named = {**config, "additional_kwargs": {"formatting_func": {"$function": "as_chat"}}}
    code = {"source": text, "source_name": "ConfigMap functions/code.py", "create_model": "create_model_fn"}

    def chunk(number: int, **other: Any) -> None:
        engine = FitEngine(lab.volume, lab.claims, threads=1)  # a worker of its own, which restores the run
        job = dataclasses.replace(lab.job("named", named), **{**code, **other})
        lab.checkpoints["named"] = engine.run_chunk(job, number, lab.control("named")).persist()

    chunk(0)
    manifest = json.loads((lab.model("named").parent / "manifest.json").read_text())
    assert manifest["code"] == hashlib.sha256(text.encode()).hexdigest()
    with pytest.raises(RunFailure, match=r"ConfigMap functions/code.py changed since the run began") as caught:
        chunk(1, source=f"{text}\n# edited")
    assert caught.value.reason == "CodeChanged"
    chunk(1)
    assert digest(lab.model("named")) == digest(lab.model("bundled"))
    assert lab.history("named") == lab.history("bundled")
