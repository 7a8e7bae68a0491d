"""A model or data set that is there and may not be read is told from one that is not there."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.vllm_spec import _check_model
from rapidfireai_worker.layout import Volume
from rapidfireai_worker.rows.permission import check_readable
from rapidfireai_worker.rows.places import local_files, located, resolve_path

WORKER = 10001


@pytest.fixture
def claim() -> Iterator[Path]:
    """A folder that anybody may enter: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="claim-"))
    folder.chmod(0o755)
    (folder / "model").mkdir(mode=0o755)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "rows").mkdir(mode=0o755)
    (folder / "rows" / "a.jsonl").write_text('{"n": 1}\n')
    yield folder
    shutil.rmtree(folder)


@contextmanager
def as_worker() -> Iterator[None]:
    """Be a worker's user; without root's rights everybody is somebody whom modes hold for."""
    root = os.geteuid() == 0
    if root:
        os.setegid(WORKER)
        os.seteuid(WORKER)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
            os.setegid(0)


def failure(read: Callable[[], object]) -> RunFailure:
    with as_worker(), pytest.raises(RunFailure) as failed:
        read()
    return failed.value


@pytest.mark.parametrize(
    ("closed", "mode", "named"),
    [
        ("", 0o000, ""),
        ("model", 0o000, "model"),
        ("model", 0o444, "model"),
        ("model/config.json", 0o000, "model/config.json"),
    ],
)
def test_what_closes_a_model_is_named_with_what_opens_it(claim: Path, closed: str, mode: int, named: str) -> None:
    model = claim / "model"
    (claim / closed).chmod(mode)
    found = failure(lambda: check_readable(model, "model_name", "pvc://data/model", model=True, files=True))
    (claim / closed).chmod(0o755)
    assert found.reason == "ModelUnreadable"
    assert found.retry, "somebody may open it meanwhile"
    assert (
        f"model_name: pvc://data/model may not be read: this worker is user {os.geteuid() or WORKER} " in found.message
    )
    assert f"and {claim / named} is closed to it" in found.message
    assert f"`chmod -R a+rX {claim / named}`" in found.message


def test_training_and_evaluating_tell_of_it_alike(claim: Path) -> None:
    volume, claims = Volume(claim), {"data": claim}
    (claim / "model").chmod(0o000)
    named = resolve_path, "pvc://data/model", "model_name", volume, claims
    fit = failure(lambda: named[0](*named[1:], missing="ModelNotFound"))
    evals = failure(lambda: located({"model": "pvc://data/model"}, "vllm_config.model_config", volume, claims))
    engine = failure(lambda: _check_model(str(claim / "model")))
    (claim / "model").chmod(0o755)
    assert {fit.reason, evals.reason, engine.reason} == {"ModelUnreadable"}
    assert evals.message.startswith("vllm_config.model_config.model: pvc://data/model may not be read")


@pytest.mark.parametrize("uri", ["pvc://data/rows", "pvc://data/rows/a.jsonl", "pvc://data/rows/*.jsonl"])
def test_rows_that_may_not_be_read_are_told_of(claim: Path, uri: str) -> None:
    (claim / "rows" / "a.jsonl").chmod(0o000)
    found = failure(lambda: local_files(uri, "data.train", Volume(claim), {"data": claim}))
    assert found.reason == "DatasetUnreadable"
    assert f"{claim}/rows/a.jsonl is closed to it (----------" in found.message


def test_what_is_open_or_not_there_is_left_to_whoever_reads_it(claim: Path) -> None:
    (claim / "rows" / "notes.txt").touch(mode=0o000)
    with as_worker():
        check_readable(claim / "model", "model_name", "m", model=True, files=True)
        check_readable(claim / "none", "model_name", "m", model=True, files=True)
        assert len(local_files("pvc://data/rows", "data.train", Volume(claim), {"data": claim}).paths) == 1
        with pytest.raises(RunFailure, match="does not exist"):
            resolve_path("pvc://data/none", "model_name", Volume(claim), {"data": claim}, missing="ModelNotFound")
