"""A state tree comes back from the disk as it was."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from rapidfireai_worker.fit.statefile import Frozen
from rapidfireai_worker.rng import Rng

pytestmark = pytest.mark.ml


def test_a_tree_survives_the_disk_bit_for_bit(tmp_path: Path) -> None:
    tree = {
        "state": {0: {"step": torch.tensor(3.0), "mean": torch.rand(2, 3).to(torch.bfloat16)}},
        "betas": (0.9, 0.1 + 0.2),
        "infinite": [math.inf, -math.inf],
        "none": None,
        "flags": [True, False],
        "$odd": {"$tensor": 1},
        "array": np.array([1, 2**32 - 1], dtype=np.uint32),
        "number": np.float64(0.1),
        "rng": vars(Rng.capture()),
    }
    Frozen.take(tree).write(tmp_path)
    back = Frozen.read(tmp_path).thaw()
    assert torch.equal(back["state"][0]["mean"], tree["state"][0]["mean"])  # type: ignore[index]
    assert back["state"][0]["mean"].dtype == torch.bfloat16
    assert back["state"][0]["step"].shape == ()
    assert (back["betas"], back["infinite"], back["none"]) == ((0.9, 0.1 + 0.2), [math.inf, -math.inf], None)
    assert (back["flags"], back["$odd"], back["number"]) == ([True, False], {"$tensor": 1}, 0.1)
    assert back["array"].dtype == np.uint32
    assert back["array"].tolist() == [1, 2**32 - 1]
    assert Rng(**back["rng"]).same(Rng.capture())


def test_what_was_frozen_does_not_change_with_its_source() -> None:
    weight = torch.zeros(2)
    frozen = Frozen.take({"weight": weight})
    weight.add_(1)
    assert frozen.thaw()["weight"].tolist() == [0, 0]


def test_what_cannot_be_saved_is_named() -> None:
    with pytest.raises(TypeError, match=r"state\.optimizer\.0\.hook: a function cannot be saved"):
        Frozen.take({"optimizer": [{"hook": lambda: None}]})
