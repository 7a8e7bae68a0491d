"""Each session finds the process as it left it, and nobody else notices."""

from __future__ import annotations

import os
import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

from rapidfireai_worker.fit.ambient import Ambient
from rapidfireai_worker.rng import Rng, untouched_rng

pytestmark = pytest.mark.ml


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(()))


def test_random_numbers_go_on_where_the_session_left_them() -> None:
    first, second = Ambient(), Ambient()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)
    start = Rng.capture()
    expected = [draw(), draw()]
    start.install()
    with first.installed():
        seen = [draw()]
    with second.installed():
        draw()
    with first.installed():
        seen.append(draw())
    assert seen == expected
    assert Rng.capture().same(start)


def test_switches_and_variables_stay_with_their_session() -> None:
    session = Ambient()
    with session.installed():
        torch.set_default_dtype(torch.float64)
        torch.backends.fp32_precision = "tf32"
        torch.use_deterministic_algorithms(True)
        os.environ["RAPIDFIRE_TEST"] = "inside"
    assert torch.get_default_dtype() == torch.float32
    assert torch.backends.cuda.matmul.fp32_precision != "tf32"
    assert not torch.are_deterministic_algorithms_enabled()
    assert "RAPIDFIRE_TEST" not in os.environ
    with session.installed():
        assert torch.get_default_dtype() == torch.float64
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ.pop("RAPIDFIRE_TEST") == "inside"
    with session.installed():
        assert "RAPIDFIRE_TEST" not in os.environ


def test_accelerate_is_each_sessions_own() -> None:
    first, second = Ambient(), Ambient()
    with first.installed():
        state = Accelerator(mixed_precision="bf16", cpu=True).state
    with second.installed():
        assert Accelerator(mixed_precision="no", cpu=True).mixed_precision == "no"
        AcceleratorState._reset_state(reset_partial_state=True)
    assert state.mixed_precision == "bf16"
    with first.installed():
        assert PartialState._shared_state
        assert AcceleratorState().mixed_precision == "bf16"


def test_random_states_are_put_back_after_an_error() -> None:
    before = Rng.capture()
    with pytest.raises(ZeroDivisionError), untouched_rng():
        draw()
        raise ZeroDivisionError
    assert Rng.capture().same(before)
