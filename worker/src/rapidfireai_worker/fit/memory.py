"""How much memory there is and how much of it is used: measured where the models are, on the GPU or in main memory."""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import structlog
import torch

HEADROOM = 0.1
"""The part of what there is that stays free: for what is not measured, such as other threads' and libraries' needs."""
_STATUS = re.compile(r"^(\w+):\s+(\d+) kB$", re.MULTILINE)
_log = structlog.get_logger(__name__)


class Meter(Protocol):
    """Measures the memory that this process computes in; all figures are bytes."""

    def used(self) -> int:
        """Return what the process holds now."""
        ...

    def budget(self) -> int:
        """Return what the process may hold."""
        ...

    def begin(self) -> None:
        """Measure `growth` from now on."""
        ...

    def growth(self) -> int:
        """Return the most that was held since `begin`, beyond what was held then."""
        ...

    def trim(self) -> None:
        """Give back what was freed."""
        ...


def measure(limit: int | None = None, budget: int | None = None) -> Meter:
    """Return the meter of the memory where this process's models are.

    Args:
        limit: What the pod is allowed of main memory, if it was told.
        budget: What it may hold, instead of what is measured.
    """
    if torch.cuda.is_available():
        return DeviceMemory(budget)
    found = cgroup_limits(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    limits = [*found, physical_memory()] if limit is None else [*found, physical_memory(), limit]
    return HostMemory(min(limits), budget)


class HostMemory:
    """Main memory: what this process cannot give back, against the smallest limit and what the machine has left.

    Args:
        limit: What the process is allowed, in bytes.
        budget: What it may hold, instead of what is measured.
    """

    def __init__(self, limit: int, budget: int | None = None) -> None:
        self._limit = limit
        self._fixed = budget
        self._began = 0

    def used(self) -> int:
        """Return what the process holds besides pages of files, which the kernel takes back when it needs them."""
        status = _process_status()
        return status["VmRSS"] - status["RssFile"]

    def budget(self) -> int:
        """Return what it may hold; other processes on a machine without limits make it smaller."""
        if self._fixed is not None:
            return self._fixed
        return int(min(self._limit, self.used() + _available()) * (1 - HEADROOM))

    def begin(self) -> None:
        """Measure `growth` from now on."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError as error:
            _log.debug("the peak cannot be reset, so memory is asked for too cautiously", error=str(error))
        self._began = _process_status()["VmRSS"]

    def growth(self) -> int:
        """Return how far the resident memory rose above what it was at `begin`."""
        return max(0, _process_status()["VmHWM"] - self._began)

    def trim(self) -> None:
        """Give freed pages back to the kernel, where the C library can."""
        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if give_back is not None:
            give_back(0)


class DeviceMemory:
    """The GPU's memory: what torch holds of it, against what the driver still has and torch has kept.

    Args:
        budget: What torch may hold, instead of what is measured.
    """

    def __init__(self, budget: int | None = None) -> None:
        self._fixed = budget
        self._began = 0

    def used(self) -> int:
        """Return what tensors hold."""
        return torch.cuda.memory_allocated()

    def budget(self) -> int:
        """Return what tensors may hold; other processes on the device make it smaller."""
        if self._fixed is not None:
            return self._fixed
        free, _ = torch.cuda.mem_get_info()
        return int((free + torch.cuda.memory_reserved()) * (1 - HEADROOM))

    def begin(self) -> None:
        """Measure `growth` from now on."""
        torch.cuda.reset_peak_memory_stats()
        self._began = self.used()

    def growth(self) -> int:
        """Return how far tensors rose above what they held at `begin`."""
        return max(0, torch.cuda.max_memory_allocated() - self._began)

    def trim(self) -> None:
        """Give what torch keeps in reserve back to the driver."""
        torch.cuda.empty_cache()


def bytes_of(tensors: Iterable[torch.Tensor]) -> int:
    """Return the memory of tensors; those that share a storage count once."""
    sizes = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
    return sum(sizes.values())


def cgroup_limits(membership: Path, mounted: Path) -> list[int]:
    """Return the memory limits that hold for this process, of its control group and of those around it.

    Args:
        membership: `/proc/self/cgroup`.
        mounted: `/sys/fs/cgroup`; inside a container the group that the file names is its root.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []  # not Linux, or hidden: then other limits count
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            root, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = Path(path.lstrip("/"))
        limits += [_limit(root / each / name) for each in (group, *group.parents)]
    return [limit for limit in limits if limit is not None]


def physical_memory() -> int:
    """Return the memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _limit(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None  # no such group as seen from here, or one without a limit of its own
    return int(text) if text.isdigit() else None


def _process_status() -> dict[str, int]:
    return {name: int(size) * 1024 for name, size in _STATUS.findall(Path("/proc/self/status").read_text())}


def _available() -> int:
    sizes = {name: int(size) * 1024 for name, size in _STATUS.findall(Path("/proc/meminfo").read_text())}
    return sizes["MemAvailable"]
