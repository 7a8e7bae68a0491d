"""Rows that one worker prepared serve the others, unless what they follow from is not all in their name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tests.fit import user_code
from tests.support.lab import Lab, write_rows
from transformers import AutoTokenizer
from trl import SFTTrainer

from rapidfireai_worker.engine import DataRef
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.rows.library import DataLibrary
from rapidfireai_worker.rows.prepared import PreparedSets, is_lasting, tokenizer_digest

pytestmark = pytest.mark.ml

ROWS = [{"asked": f"{number}+1?", "answered": str(number + 1)} for number in range(5)]
VERSIONS = {"libraries": {"trl": "1"}}


def worker(lab: Lab, versions: dict[str, Any] | None = None) -> DataLibrary:
    """Return the data sets of a worker that has prepared nothing yet."""
    return DataLibrary(lab.volume, lab.claims, VERSIONS if versions is None else versions)


@pytest.fixture
def rows(lab: Lab) -> Callable[[DataLibrary], Dataset]:
    write_rows(lab.root / "rows.jsonl", ROWS)
    return lambda library: library.load(DataRef("pvc://data/rows.jsonl"), "data.train")


def counted() -> tuple[Callable[..., Any], list[int]]:
    calls: list[int] = []

    def function(row: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        return {"text": row["asked"], "length": len(row["asked"]), "turns": [{"role": "user", "content": row["asked"]}]}

    return function, calls


def entries(lab: Lab) -> list[Path]:
    return sorted(lab.volume.prepared.iterdir()) if lab.volume.prepared.is_dir() else []


def test_another_worker_reads_what_one_has_formatted(lab: Lab, rows: Callable[[DataLibrary], Dataset]) -> None:
    function, calls = counted()
    made = []
    for _ in range(2):
        library = worker(lab)
        made.append(library.format(rows(library), function, "[digest]", "data.train", lasting=True))
    assert len(calls) == len(ROWS)
    assert made[0].to_list() == made[1].to_list()
    assert made[0].features == made[1].features
    assert made[0]._fingerprint == made[1]._fingerprint
    assert len(entries(lab)) == 1


@pytest.mark.parametrize("differs", ["rows", "function", "versions"])
def test_what_follows_from_something_else_is_made_anew(
    differs: str, lab: Lab, rows: Callable[[DataLibrary], Dataset]
) -> None:
    function, calls = counted()
    library = worker(lab)
    library.format(rows(library), function, "[digest]", "data.train", lasting=True)
    if differs == "rows":
        write_rows(lab.root / "rows.jsonl", ROWS[1:])
    other = worker(lab, {"libraries": {"trl": "2"}} if differs == "versions" else None)
    identity = "[other]" if differs == "function" else "[digest]"
    made = other.format(rows(other), function, identity, "data.train", lasting=True)
    assert len(calls) == len(ROWS) + len(made)


def test_the_same_rows_elsewhere_are_the_same(lab: Lab, rows: Callable[[DataLibrary], Dataset]) -> None:
    function, calls = counted()
    library = worker(lab)
    library.format(rows(library), function, "[digest]", "data.train", lasting=True)
    shutil.move(lab.root / "rows.jsonl", lab.root / "moved.jsonl")
    other = worker(lab)
    moved = other.load(DataRef("pvc://data/moved.jsonl"), "data.eval")
    other.format(moved, function, "[digest]", "data.eval", lasting=True)
    assert len(calls) == len(ROWS)


def test_what_is_not_all_in_the_name_stays_in_the_process(lab: Lab, rows: Callable[[DataLibrary], Dataset]) -> None:
    function, calls = counted()

    def drawing(row: dict[str, Any]) -> dict[str, Any]:
        return {**function(row), "noise": np.random.random()}

    for made, lasting in ((function, False), (drawing, True)):
        for _ in range(2):
            library = worker(lab)
            formatted = library.format(rows(library), made, "[digest]", "data.train", lasting=lasting)
            assert not is_lasting(formatted)
    assert len(calls) == 4 * len(ROWS)
    assert entries(lab) == []


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no manifest", "empty manifest"])
def test_a_damaged_set_is_made_again(damage: str, lab: Lab, rows: Callable[[DataLibrary], Dataset]) -> None:
    function, calls = counted()
    library = worker(lab)
    made = library.format(rows(library), function, "[digest]", "data.train", lasting=True)
    (entry,) = entries(lab)
    data, manifest = next(entry.glob("data-*.arrow")), entry / "manifest.json"
    match damage:
        case "truncated":
            data.write_bytes(data.read_bytes()[:-100])
        case "changed":
            data.write_bytes(data.read_bytes().replace(b"3+1?", b"4+1?"))
        case "missing":
            data.unlink()
        case "no manifest":
            manifest.unlink()
        case "empty manifest":
            manifest.write_text("")
    for expected in (2, 2):
        again = worker(lab)
        assert again.format(rows(again), function, "[digest]", "data.train", lasting=True).to_list() == made.to_list()
        assert len(calls) == expected * len(ROWS)


def test_workers_that_prepare_the_same_at_once_agree(lab: Lab) -> None:
    rows = Dataset.from_list(ROWS)
    sets = [PreparedSets(lab.volume, VERSIONS) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda each: each.put("key", rows), sets))
    kept = PreparedSets(lab.volume, VERSIONS).get("key")
    assert kept is not None
    assert kept.to_list() == ROWS
    assert len(entries(lab)) == 1


def test_a_volume_that_takes_nothing_is_no_failure(lab: Lab) -> None:
    lab.volume.root.mkdir(parents=True)
    lab.volume.prepared.write_text("in the way")
    library = worker(lab)
    made = library.remember("key", lambda: Dataset.from_list(ROWS), lasting=True)
    assert made.to_list() == ROWS


def test_a_tokenizer_is_known_by_all_that_it_is(tiny_model: Path) -> None:
    tokenizers = [AutoTokenizer.from_pretrained(tiny_model) for _ in range(4)]
    tokenizers[2].chat_template = "{{ messages }}"
    tokenizers[3].add_tokens(["another"])
    digests = [tokenizer_digest(each) for each in tokenizers]
    assert digests[0] == digests[1]
    assert len({*digests}) == 3

    class Own(type(tokenizers[0])):  # type: ignore[misc]
        pass

    assert tokenizer_digest(Own.from_pretrained(tiny_model)) is None


def test_a_second_worker_neither_formats_nor_tokenises(
    lab: Lab, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    prepare = SFTTrainer._prepare_dataset

    def counting(self: Any, dataset: Any, *arguments: Any) -> Any:
        done.append("tokenised")
        return prepare(self, dataset, *arguments)

    monkeypatch.setattr(SFTTrainer, "_prepare_dataset", counting)
    write_rows(lab.root / "train.jsonl", ROWS * 8)
    write_rows(lab.root / "eval.jsonl", ROWS)
    references = lab.put_bundle(formatting_func=user_code.as_chat)
    config = {
        "trainer_type": "SFT",
        "model_name": str(tiny_model),
        "peft_params": {"r": 4, "target_modules": ["q_proj"]},
        "training_args": {"per_device_train_batch_size": 8, "learning_rate": 1e-3, "logging_steps": 1},
        "additional_kwargs": references,
    }
    histories = []
    for name in ("first", "second"):
        engine = FitEngine(lab.volume, lab.claims, threads=1)
        lab.finish(engine, name, config)
        histories.append(lab.history(name))
    assert done == ["tokenised"] * 2  # the rows to train and to evaluate on, by the first
    assert histories[0] == histories[1]
    faster = {**config, "training_args": {**config["training_args"], "learning_rate": 1e-2}}
    FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("third", faster))
    assert len(done) == 2
    shorter = {**config, "training_args": {**config["training_args"], "max_length": 200}}
    FitEngine(lab.volume, lab.claims, threads=1).prepare(lab.job("fourth", shorter))
    assert len(done) == 4
