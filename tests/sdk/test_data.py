"""What may be given as a data set: rows, files of this machine, URIs; or a sentence that names the argument."""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from rapidfireai.api.data import DataSource
from rapidfireai.data import DataFile, resolve
from rapidfireai.errors import DataError

pytestmark = pytest.mark.ml

ROWS = [{"question": "1+1?", "answer": "2"}, {"question": "2+2?", "answer": "4"}]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "here"
    (folder / "parts" / "deep").mkdir(parents=True)
    lines = [json.dumps(row) + "\n" for row in ROWS]
    (folder / "rows.jsonl").write_text("".join(lines))
    (folder / "rows.json").write_text(json.dumps(ROWS))
    (folder / "rows.jsonl.gz").write_bytes(gzip.compress("".join(lines).encode()))
    (folder / "parts" / "a.jsonl").write_text(lines[0])
    (folder / "parts" / "deep" / "b.jsonl").write_text(lines[1])
    (folder / "parts" / "_ignored.csv").write_text("a,b\n")
    Dataset.from_list(ROWS).to_csv(folder / "rows.csv", index=False)
    Dataset.from_list(ROWS).to_parquet(folder / "rows.parquet")
    (folder / "odd [1].jsonl").write_text(lines[0])
    monkeypatch.chdir(folder)
    return folder


def sent(value: object, tmp_path: Path) -> DataFile:
    found = resolve(value, "train_dataset", tmp_path)
    assert isinstance(found, DataFile)
    return found


@pytest.mark.parametrize(
    "name", ["rows.jsonl", "rows.json", "rows.jsonl.gz", "rows.parquet", "parts", "parts/**/?.jsonl"]
)
def test_files_of_this_machine_are_sent_as_one(name: str, here: Path, tmp_path: Path) -> None:
    """However they are written, equal rows are one upload."""
    for value in (name, Path(name), str(here / name)):
        assert Dataset.from_parquet(str(sent(value, tmp_path).path)).to_list() == ROWS
    assert sent(name, tmp_path).digest == sent(Dataset.from_list(ROWS), tmp_path).digest


@pytest.mark.usefixtures("here")
def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    assert sent("odd [1].jsonl", tmp_path).rows == 1


def test_a_csv_is_read_with_its_types(here: Path, tmp_path: Path) -> None:
    assert Dataset.from_parquet(str(sent(here / "rows.csv", tmp_path).path))["answer"][:] == [2, 4]


@pytest.mark.parametrize(
    ("value", "wire"),
    [
        ("hf://owner/name", {"uri": "hf://owner/name", "split": "train"}),
        ("https://host/rows.jsonl", {"uri": "https://host/rows.jsonl", "split": "train"}),
        ("s3://bucket/rows/*.parquet", {"uri": "s3://bucket/rows/*.parquet", "split": "train"}),
        (DataSource(uri="pvc://claim/rows.csv"), {"uri": "pvc://claim/rows.csv", "split": "train"}),
        (
            {"uri": "hf://owner/name", "config": "main", "revision": "v1", "split": "test"},
            {"uri": "hf://owner/name", "config": "main", "revision": "v1", "split": "test"},
        ),
    ],
)
def test_what_workers_can_read_is_not_sent(value: object, wire: Mapping[str, Any], tmp_path: Path) -> None:
    found = resolve(value, "train_dataset", tmp_path)
    assert isinstance(found, DataSource)
    assert found.to_wire() == wire


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("none.jsonl", "train_dataset: 'none.jsonl' does not exist here; correct the path, or write a URI"),
        ("none/*.jsonl", "train_dataset: 'none/*.jsonl' does not exist here"),
        ("rows.*", "train_dataset: rows.* mixes kinds of files"),
        (".", "train_dataset: . mixes kinds of files"),
        ("ftp://host/rows.jsonl", "train_dataset: uri: write pvc://CLAIM/path, hf://owner/name"),
        ("https://me:secret@host/rows.jsonl", "a user name and password do not belong in it"),
        ({"uri": "pvc://claim/a.csv", "revision": "v1"}, "config and revision belong to an hf:// data set"),
        ({"uri": "hf://owner/name", "spilt": "test"}, "train_dataset: spilt: Extra inputs are not permitted"),
        ({"train": [], "test": []}, "train_dataset: is a dict of splits; choose one of them: train, test"),
        (b"rows.jsonl", "train_dataset: must be a datasets.Dataset, a path or a URI, not bytes"),
    ],
)
def test_what_is_no_data_set_is_named_with_the_fix(value: object, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        resolve(value, "train_dataset", tmp_path)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("broken.jsonl", '{"a": 1}\nnonsense', "train_dataset: broken.jsonl cannot be read: "),
        ("empty.jsonl", "", "train_dataset: empty.jsonl has no rows"),
        ("notes.txt", "notes", "train_dataset: 'notes.txt': notes.txt is no file that ends in .jsonl"),
        ("header.csv", "a,b\n", "train_dataset: header.csv has no rows"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name: str, text: str, words: str, here: Path, tmp_path: Path) -> None:
    (here / name).write_text(text)
    with pytest.raises(DataError) as caught:
        resolve(name, "train_dataset", tmp_path)
    assert words in str(caught.value)
