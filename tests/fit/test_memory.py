"""What memory there is, as the kernel tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from rapidfireai_worker.fit.memory import HostMemory, bytes_of, cgroup_limits, measure, physical_memory

pytestmark = pytest.mark.ml
MIB = 2**20


@pytest.mark.parametrize(
    ("membership", "files", "limits"),
    [
        ("0::/\n", {"memory.max": "1000"}, [1000]),
        ("0::/\n", {"memory.max": "max"}, []),
        (
            "0::/pods/one\n",
            {"memory.max": "9000", "pods/memory.max": "max", "pods/one/memory.max": "1000"},
            [1000, 9000],
        ),
        ("0::/hidden/from/here\n", {"memory.max": "1000"}, [1000]),
        ("4:memory:/pods/one\n0::/\n", {"memory/memory.limit_in_bytes": "1000"}, [1000]),
        (
            "5:cpu,memory:/x\n",
            {"memory/x/memory.limit_in_bytes": "1000", "memory/memory.limit_in_bytes": "5"},
            [1000, 5],
        ),
        ("1:name=systemd:/\n", {"memory.max": "1000"}, []),
    ],
)
def test_the_limits_of_all_groups_around_the_process_are_found(
    membership: str, files: dict[str, str], limits: list[int], tmp_path: Path
) -> None:
    for name, text in {"membership": membership, **files}.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert cgroup_limits(tmp_path / "membership", tmp_path) == limits


def test_a_system_without_control_groups_has_no_such_limit(tmp_path: Path) -> None:
    assert cgroup_limits(tmp_path / "none", tmp_path) == []


def test_what_is_held_and_its_peak_are_measured() -> None:
    meter = HostMemory(physical_memory())
    before = meter.used()
    meter.begin()
    block = bytearray(b"x" * (200 * MIB))
    held = meter.used() - before
    del block
    assert 190 * MIB < held < 300 * MIB
    assert 190 * MIB < meter.growth() < 700 * MIB
    meter.begin()
    assert meter.growth() < 100 * MIB


def test_the_budget_is_below_the_smallest_limit_and_what_the_machine_has_left() -> None:
    assert HostMemory(1000 * MIB).budget() == 900 * MIB
    assert HostMemory(2**60).budget() < physical_memory()
    assert HostMemory(1000 * MIB, budget=77).budget() == 77
    assert measure(limit=1000 * MIB).budget() <= 900 * MIB


def test_tensors_that_share_a_storage_count_once() -> None:
    import torch

    weight = torch.zeros(10, 10)
    assert bytes_of([weight, weight[0], weight.T, torch.zeros(5)]) == 420
