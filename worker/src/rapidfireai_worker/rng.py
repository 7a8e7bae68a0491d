"""The random generators of the process: where they stand, and how to leave them where they stood.

Those of torch count once somebody has imported it: whoever trains has, and who asks an API need not.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Rng:
    """Where every random generator of the process stands."""

    python: tuple[Any, ...]
    numpy: tuple[Any, ...]
    cpu: torch.Tensor | None
    cuda: tuple[torch.Tensor, ...] = ()

    @classmethod
    def capture(cls) -> Rng:
        """Return where the generators stand now."""
        torch = _torch()
        cuda = tuple(torch.cuda.get_rng_state_all()) if cuda_in_use() else ()
        numpy = np.random.get_state(legacy=True)
        return cls(random.getstate(), tuple(numpy), torch.get_rng_state() if torch else None, cuda)

    def install(self) -> None:
        """Put the generators back to where they stood."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch = _torch()
        if self.cpu is not None:
            torch.set_rng_state(self.cpu)
        if self.cuda and torch.cuda.is_available():
            torch.cuda.set_rng_state_all(list(self.cuda[: torch.cuda.device_count()]))

    def same(self, other: Rng) -> bool:
        """Return whether nothing was drawn between the two."""
        torch = _torch()
        return (
            self.python == other.python
            and all(np.array_equal(mine, theirs) for mine, theirs in zip(self.numpy, other.numpy, strict=True))
            and (self.cpu is None or other.cpu is None or torch.equal(self.cpu, other.cpu))
            and len(self.cuda) == len(other.cuda)
            and all(torch.equal(mine, theirs) for mine, theirs in zip(self.cuda, other.cuda, strict=True))
        )


def cuda_in_use() -> bool:
    """Return whether this process has a CUDA context, without making one."""
    torch = _torch()
    return torch is not None and bool(torch.cuda.is_initialized())


def _torch() -> Any:
    """Return torch, or None as long as nobody has imported it."""
    return sys.modules.get("torch")


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Put the generators back at the end, whatever was drawn in between."""
    before = Rng.capture()
    try:
        yield
    finally:
        before.install()
