"""A tiny model, rows, and a lab to train in."""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # read when the Hugging Face packages are imported, below

from pathlib import Path

import pytest
from tests.support.lab import Lab, chat_rows, write_rows
from tests.support.tiny import write_tiny_model


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    write_rows(tmp_path / "train.jsonl", chat_rows(49)[:41])
    write_rows(tmp_path / "eval.jsonl", chat_rows(49)[41:])
    return Lab(tmp_path)
