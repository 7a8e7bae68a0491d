"""The process-wide state that a trainer leans on, swapped in for one session at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from rapidfireai_worker.rng import Rng

_SHARED = (PartialState, AcceleratorState, GradientState)
_BACKENDS: Any = torch.backends
_PRECISIONS = (
    _BACKENDS,
    _BACKENDS.cuda.matmul,
    _BACKENDS.cudnn,
    _BACKENDS.cudnn.conv,
    _BACKENDS.cudnn.rnn,
    _BACKENDS.mkldnn,
    _BACKENDS.mkldnn.matmul,
    _BACKENDS.mkldnn.conv,
    _BACKENDS.mkldnn.rnn,
)
"""From the general to the particular, so that putting them back in this order leaves each as it was."""


@dataclass(frozen=True)
class _Flags:
    """torch's process-wide switches that change what is computed."""

    default_dtype: torch.dtype
    deterministic: bool
    warn_only: bool
    cudnn_deterministic: bool
    cudnn_benchmark: bool
    precisions: tuple[str, ...]

    @classmethod
    def capture(cls) -> _Flags:
        return cls(
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
            torch.backends.cudnn.benchmark,
            tuple(backend.fp32_precision for backend in _PRECISIONS),
        )

    def install(self) -> None:
        torch.set_default_dtype(self.default_dtype)
        torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.deterministic = self.cudnn_deterministic
        torch.backends.cudnn.benchmark = self.cudnn_benchmark
        for backend, precision in zip(_PRECISIONS, self.precisions, strict=True):
            if backend.fp32_precision != precision:
                backend.fp32_precision = precision


@dataclass
class Ambient:
    """One session's view of the process: random states, accelerate's shared states, torch's switches, environment.

    Building a second trainer changes what a parked one reads from accelerate, and a config's `device` can empty it;
    so each session has dictionaries of its own in place of accelerate's.
    """

    _rng: Rng | None = None
    _flags: _Flags | None = None
    _environment: dict[str, str | None] = field(default_factory=dict)
    _accelerate: tuple[dict[str, Any], ...] = field(default_factory=lambda: tuple({} for _ in _SHARED))

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Put the session's state in place, and the process's own back at the end.

        All that the session does (build, step, evaluate, save, end) happens inside, one session at a time.
        """
        rng, flags, environment = Rng.capture(), _Flags.capture(), dict(os.environ)
        shared = [state._shared_state for state in _SHARED]
        (self._rng or rng).install()
        (self._flags or flags).install()
        _update_environment(self._environment)
        for state, own in zip(_SHARED, self._accelerate, strict=True):
            state._shared_state = own
        try:
            yield
        finally:
            self._rng, self._flags = Rng.capture(), _Flags.capture()
            self._environment = _difference(environment, dict(os.environ))
            for state, outer in zip(_SHARED, shared, strict=True):
                state._shared_state = outer
            _update_environment(_difference(dict(os.environ), environment))
            flags.install()
            rng.install()


def _difference(before: dict[str, str], after: dict[str, str]) -> dict[str, str | None]:
    changed: dict[str, str | None] = {key: value for key, value in after.items() if before.get(key) != value}
    return changed | dict.fromkeys(before.keys() - after.keys())


def _update_environment(changes: dict[str, str | None]) -> None:
    for key, value in changes.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
