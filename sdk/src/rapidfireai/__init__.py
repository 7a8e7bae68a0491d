"""Fine-tune or evaluate many LLM configs side by side on Kubernetes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rapidfireai.experiment import Experiment

__all__ = ["Experiment"]


def __getattr__(name: str) -> Any:
    """Import `Experiment` when it is asked for: operator and worker import this package too and have no use for it."""
    if name == "Experiment":
        from rapidfireai.experiment import Experiment  # noqa: PLC0415 - that is the point

        return Experiment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
