"""Data sets by URI: the rows, or a sentence that names the field, the URI and the fix."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset
from tests.support.lab import Lab, write_rows

from rapidfireai_worker.engine import DataRef, RunFailure
from rapidfireai_worker.rng import Rng
from rapidfireai_worker.rows.library import DataLibrary

pytestmark = pytest.mark.ml

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]


@pytest.fixture
def library(lab: Lab) -> DataLibrary:
    write_rows(lab.root / "rows.jsonl", ROWS)
    return DataLibrary(lab.volume, lab.claims)


def load(library: DataLibrary, uri: str) -> Dataset:
    return library.load(DataRef(uri), "data.train")


def test_every_kind_of_file_and_uri_is_read(library: DataLibrary, lab: Lab) -> None:
    rows = Dataset.from_list(ROWS)
    rows.to_parquet(lab.root / "rows.parquet")
    rows.to_csv(lab.root / "rows.csv")
    blob = lab.volume.dataset("ab" * 32)
    blob.parent.mkdir(parents=True)
    rows.to_parquet(blob)
    for uri in (
        "pvc://data/rows.jsonl",
        "pvc://data/rows.parquet",
        "pvc://data/rows.csv",
        f"blob://sha256/{'ab' * 32}",
        f"file://{lab.root}/rows.jsonl",
    ):
        assert load(library, uri)["question"][:] == ["1+1?", "2+2?"], uri


def test_directories_and_patterns_are_read_in_the_order_of_their_names(library: DataLibrary, lab: Lab) -> None:
    folder = lab.root / "folder"
    (folder / "part=2").mkdir(parents=True)
    for name, row in (("part=2/c.jsonl", 3), ("b.jsonl", 2), ("a.jsonl", 1), ("_temporary.jsonl", 0), (".d.jsonl", 0)):
        write_rows(folder / name, [{"number": row}])
    (folder / "README.md").touch()
    for uri, numbers in (
        ("pvc://data/folder", [1, 2, 3]),
        ("pvc://data/folder/", [1, 2, 3]),
        ("pvc://data/folder/*.jsonl", [0, 0, 1, 2]),
        ("pvc://data/folder/[ab].jsonl", [1, 2]),
        ("pvc://data/fold*/**/?.jsonl", [1, 2, 3]),
        (f"file://{folder}/?.jsonl", [1, 2]),
    ):
        assert load(library, uri)["number"][:] == numbers, uri


def test_a_name_that_looks_like_a_pattern_is_a_name(library: DataLibrary, lab: Lab) -> None:
    write_rows(lab.root / "rows [1].jsonl", ROWS)
    write_rows(lab.root / "rows 1.jsonl", ROWS[:1])
    assert len(load(library, "pvc://data/rows [1].jsonl")) == 2


@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_compressed_files_are_read(suffix: str, library: DataLibrary, lab: Lab) -> None:
    text = "question\n1+1?\n" if suffix == "csv" else '{"question": "1+1?"}\n'
    (lab.root / f"rows.{suffix}.gz").write_bytes(gzip.compress(text.encode()))
    assert load(library, f"pvc://data/rows.{suffix}.gz")["question"][:] == ["1+1?"]


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("pvc://other/rows.jsonl", "data.train.uri: pvc://other/rows.jsonl: no claim 'other' is mounted here; mounted"),
        ("pvc://data/none.jsonl", "data.train.uri: pvc://data/none.jsonl does not exist"),
        ("pvc://data/../../etc/passwd", "leads out of the claim"),
        (f"blob://sha256/{'0' * 64}", "does not exist"),
        ("file:///none.csv", "data.train.uri: file:///none.csv does not exist (looked for /none.csv); put it there"),
        ("ftp://host/rows", "write pvc://CLAIM/path"),
        ("pvc://data/rows.txt", "rows.txt is no file that ends in .jsonl"),
        ("pvc://data/nothing", "data.train.uri: pvc://data/nothing: holds no file that ends in .jsonl"),
        (
            "pvc://data/mixed",
            "data.train.uri: pvc://data/mixed mixes kinds of files (a.jsonl, b.csv); name those of one",
        ),
        ("pvc://data/none-*.csv", "data.train.uri: pvc://data/none-*.csv matches no file"),
        ("pvc://data/../*/rows.jsonl", "leads out of the claim"),
        ("pvc://data/broken.jsonl", "data.train.uri: pvc://data/broken.jsonl cannot be read"),
        ("pvc://data/empty.jsonl", "data.train.uri: pvc://data/empty.jsonl has no rows"),
    ],
)
def test_what_cannot_be_read_is_named_with_the_fix(uri: str, message: str, library: DataLibrary, lab: Lab) -> None:
    (lab.root / "rows.txt").write_text("rows")
    (lab.root / "broken.jsonl").write_text('{"question": "1+1?"\nnonsense')
    (lab.root / "empty.jsonl").write_text("")
    (lab.root / "nothing").mkdir()
    (lab.root / "mixed").mkdir()
    (lab.root / "mixed" / "a.jsonl").touch()
    (lab.root / "mixed" / "b.csv").touch()
    with pytest.raises(RunFailure) as failure:
        load(library, uri)
    assert message in failure.value.message
    assert failure.value.blame == "Run"


@pytest.mark.parametrize(
    ("row", "prompt", "completion"),
    [
        ({"question": "1+1?", "answer": "2"}, "1+1?", "2"),
        ({"instruction": "Add.", "input": "1 1", "output": "2"}, "Add.\n\n1 1", "2"),
        ({"instruction": "Greet.", "input": "", "response": "Hello."}, "Greet.", "Hello."),
    ],
)
def test_questions_and_answers_become_chats(
    row: dict[str, str], prompt: str, completion: str, library: DataLibrary, lab: Lab
) -> None:
    write_rows(lab.root / "pairs.jsonl", [row])
    chats = library.format(load(library, "pvc://data/pairs.jsonl"), None, "null", "data.train")
    assert chats.to_list() == [
        {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": completion}],
        }
    ]


@pytest.mark.parametrize("row", [{"text": "a"}, {"prompt": "a", "completion": "b"}, {"messages": []}])
def test_rows_that_the_trainer_knows_are_left_alone(row: dict[str, Any], library: DataLibrary, lab: Lab) -> None:
    write_rows(lab.root / "known.jsonl", [row])
    rows = load(library, "pvc://data/known.jsonl")
    assert library.format(rows, None, "null", "data.train") is rows


def test_columns_without_a_meaning_are_named(library: DataLibrary, lab: Lab) -> None:
    write_rows(lab.root / "odd.jsonl", [{"left": 1, "right": 2}])
    with pytest.raises(RunFailure, match=r"data.eval: rows have the columns \['left', 'right'\]; without a formatting"):
        library.format(load(library, "pvc://data/odd.jsonl"), None, "null", "data.eval")


def count_calls(draws: bool) -> tuple[Callable[..., Any], list[int]]:
    calls: list[int] = []

    def function(row: dict[str, Any]) -> dict[str, Any]:
        calls.append(1)
        return {"text": f"{row['question']} {np.random.random() if draws else ''}"}

    return function, calls


def test_equal_preprocessing_is_done_once_unless_it_draws_random_numbers(library: DataLibrary) -> None:
    rows = load(library, "pvc://data/rows.jsonl")
    assert load(library, "pvc://data/rows.jsonl") is rows
    function, calls = count_calls(draws=False)
    once = library.format(rows, function, "a", "data.train")
    assert library.format(rows, function, "a", "data.train") is once
    assert len(calls) == 2
    library.format(rows, function, "b", "data.train")
    assert len(calls) == 4
    drawing, calls = count_calls(draws=True)
    before = Rng.capture()
    first = library.format(rows, drawing, "c", "data.train").to_list()
    after = Rng.capture()
    before.install()
    assert library.format(rows, drawing, "c", "data.train").to_list() == first
    assert Rng.capture().same(after)
    assert len(calls) == 4


def test_a_file_that_changed_is_read_again(library: DataLibrary, lab: Lab) -> None:
    assert len(load(library, "pvc://data/rows.jsonl")) == 2
    write_rows(lab.root / "rows.jsonl", ROWS[:1])
    assert len(load(library, "pvc://data/rows.jsonl")) == 1


def test_reading_draws_no_random_numbers(library: DataLibrary) -> None:
    before = Rng.capture()
    load(library, "pvc://data/rows.jsonl")
    assert Rng.capture().same(before)


def test_links_inside_a_claim_may_not_lead_out_of_it(library: DataLibrary, lab: Lab, tmp_path_factory: Any) -> None:
    outside: Path = tmp_path_factory.mktemp("outside") / "rows.jsonl"
    write_rows(outside, ROWS)
    (lab.root / "link.jsonl").symlink_to(outside)
    with pytest.raises(RunFailure, match="leads out of the claim"):
        load(library, "pvc://data/link.jsonl")
