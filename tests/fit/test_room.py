"""Sessions leave when memory runs short, by measure or by an error, and nothing of what is trained changes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.fit.hungry import config
from tests.fit.reference import digest
from tests.support.lab import Lab, chat_rows, write_rows
from tests.support.tiny import write_tiny_model
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine
from rapidfireai_worker.fit.memory import DeviceMemory, HostMemory, physical_memory

pytestmark = pytest.mark.ml
ROOT = Path(__file__).resolve().parents[2]


class Budgeted(HostMemory):
    """Measures main memory; the test says how much of it there is."""

    allowed = 2**60

    def budget(self) -> int:
        return self.allowed


@pytest.fixture(scope="module")
def hungry_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 10 million weights: what a session of it holds stands out of the noise of a process."""
    folder = write_tiny_model(tmp_path_factory.mktemp("hungry"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=512,
        intermediate_size=1024,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(shape).save_pretrained(folder)
    return folder


def lab_in(folder: Path) -> Lab:
    write_rows(folder / "train.jsonl", chat_rows(100))
    write_rows(folder / "eval.jsonl", chat_rows(2))
    return Lab(folder, chunks=2)


@pytest.fixture
def hungry_lab(tmp_path: Path) -> Lab:
    return lab_in(tmp_path)


@pytest.fixture(scope="module")
def plain(hungry_model: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """What comes of the run without any limit."""
    lab = lab_in(tmp_path_factory.mktemp("plain"))
    lab.finish(FitEngine(lab.volume, lab.claims, threads=1), "plain", config(str(hungry_model), 1))
    return digest(lab.model("plain"))


def test_sessions_leave_before_memory_runs_out_and_come_back_as_they_were(
    hungry_lab: Lab, hungry_model: Path, plain: str
) -> None:
    lab, meter, run = hungry_lab, Budgeted(physical_memory()), config(str(hungry_model), 1)
    engine = FitEngine(lab.volume, lab.claims, threads=1, meter=meter)
    for name in ("a", "b"):
        lab.chunk(engine, name, run, 0)
    assert sorted(engine.holdings().residents) == ["a-uid", "b-uid"]
    assert engine.holdings().evictions == 0
    meter.allowed = meter.used() + 2**20
    lab.chunk(engine, "a", run, 1)
    assert sorted(engine.holdings().residents) == ["a-uid"]
    lab.chunk(engine, "b", run, 1)
    held = engine.holdings()
    assert (sorted(held.residents), held.evictions) == (["b-uid"], 2)
    assert held.budget == meter.allowed
    assert digest(lab.model("a")) == digest(lab.model("b")) == plain


def test_a_session_whose_checkpoint_is_not_written_yet_stays(hungry_lab: Lab, hungry_model: Path) -> None:
    lab, meter, run = hungry_lab, Budgeted(physical_memory()), config(str(hungry_model), 1)
    engine = FitEngine(lab.volume, lab.claims, threads=1, meter=meter)
    outcome = engine.run_chunk(lab.job("a", run), 0, lab.control("a"))
    meter.allowed = 0
    lab.chunk(engine, "b", run, 0)
    assert sorted(engine.holdings().residents) == ["a-uid", "b-uid"]
    lab.checkpoints["a"] = outcome.persist()
    lab.chunk(engine, "b", run, 1)
    assert sorted(engine.holdings().residents) == ["b-uid"]


def test_memory_that_runs_out_costs_no_run_but_the_one_that_can_never_fit(
    hungry_lab: Lab, hungry_model: Path, plain: str, show: Callable[[str], None]
) -> None:
    """The kernel refuses memory to a process of its own: two runs take turns, and a third one fails alone."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment["MALLOC_MMAP_THRESHOLD_"] = str(2**20)  # what is freed no longer counts, whatever lies around it
    command = [sys.executable, "tests/fit/hungry.py", str(hungry_lab.root), str(hungry_model)]
    process = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    told: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    show(told["failure"]["message"])
    assert told["residents"] == [["a-uid"], ["b-uid"], ["a-uid"], ["b-uid"]]
    assert (told["failure"]["reason"], told["failure"]["retry"]) == ("OutOfMemory", False)
    assert "with no other run in the worker: it needs at least" in told["failure"]["message"]
    assert "DefaultCPUAllocator: can't allocate memory" in told["failure"]["message"]
    models = {name: digest(Path(folder)) for name, folder in told["models"].items()}
    assert set(models.values()) == {plain}, models


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpus_memory_that_runs_out_fails_the_hopeless_run_alone(hungry_lab: Lab, hungry_model: Path) -> None:
    lab = hungry_lab
    engine = FitEngine(lab.volume, lab.claims, threads=1, meter=DeviceMemory())
    lab.chunk(engine, "a", config(str(hungry_model), 1), 0)
    free, _ = torch.cuda.mem_get_info()
    blocker = torch.empty(free - 2**30, dtype=torch.uint8, device="cuda")
    try:
        with pytest.raises(RunFailure) as failure:
            lab.chunk(engine, "hopeless", config(str(hungry_model), 100), 0)
        assert failure.value.reason == "OutOfMemory"
        assert "it needs at least" in failure.value.message
        assert lab.chunk(engine, "a", config(str(hungry_model), 1), 1).step == 2
    finally:
        del blocker
