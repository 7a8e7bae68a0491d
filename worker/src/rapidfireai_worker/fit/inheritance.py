"""What a warm clone takes over of its parent: the weights, and the place in the stream of rows. Nothing else."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

import structlog
import torch

from rapidfireai.api.run import ParentRef
from rapidfireai_worker.engine import RunFailure, RunJob
from rapidfireai_worker.fit.checkpoint import read_checkpoint
from rapidfireai_worker.fit.models import Base, content_of
from rapidfireai_worker.fit.stream import Position
from rapidfireai_worker.layout import Volume

_NAMED = 4
"""How many tensors a message names."""
Fingerprints = Mapping[str, tuple[str, int]]
"""The type and a digest of frozen weights, by name; the digest is the same on every device."""
_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Inheritance:
    """What a parent's checkpoint holds for its clones.

    Attributes:
        parent: The parent's name.
        weights: Its own tensors, by name: what it trained, and whatever else differs from the base as it was loaded.
        frozen: What its other weights were.
        position: Where it stood in the stream of rows.
        private: Whether it wrote into the base and so had a copy of it.
    """

    parent: str
    weights: Mapping[str, torch.Tensor]
    frozen: Fingerprints
    position: Position
    private: bool


def inheritance_of(job: RunJob, volume: Volume, facts: Mapping[str, Any]) -> Inheritance | None:
    """Return what a run begins with, if it is a warm clone that has committed nothing yet.

    Args:
        job: The run.
        volume: Where the parent's checkpoint lies.
        facts: What bit-identity depends on here.

    Raises:
        RunFailure: If the parent's checkpoint is missing, damaged or of a version that did not say where it stood.
    """
    parent = job.parent
    if parent is None or not parent.warm_start or job.checkpoint is not None:
        return None
    if parent.checkpoint is None:
        raise RunFailure(
            "InvalidConfig",
            f"spec.parentRef.checkpoint: missing, and a warm clone begins with it; clone {parent.name} once it has "
            "committed a chunk, or without warmStart",
        )
    try:
        read = read_checkpoint(volume, parent.checkpoint, facts)
    except RunFailure as failure:
        raise _unreadable(parent, failure.message) from failure
    if read.position is None:
        why = f"an earlier version wrote {parent.checkpoint.path}, and it does not say which rows were drawn"
        raise _unreadable(parent, f"{why}; clone without warmStart")
    state = read.state
    return Inheritance(parent.name, state["weights"], state["frozen"], read.position, bool(state["private"]))


def fingerprints(model: Any, base: Base) -> dict[str, tuple[str, int]]:
    """Return the type and a digest of each weight of a model that is not trained, as it is now.

    Args:
        model: A model that was just built on `base`.
        base: Its weights' digests are known.
    """
    known = base.contents()
    frozen = {name: weight for name, weight in model.named_parameters() if not weight.requires_grad}
    return {
        name: (str(weight.dtype), (known.get(weight.data_ptr()) or content_of(weight))[0])
        for name, weight in frozen.items()
    }


def take_over(model: Any, made: AbstractSet[str], frozen: Fingerprints, inheritance: Inheritance) -> None:
    """Put a parent's weights in the place of a clone's.

    Args:
        model: The clone's model as it was built.
        made: The names of its tensors that are not the base's: an adapter's, say.
        frozen: What its weights are that are not trained.
        inheritance: What the parent has.

    Raises:
        RunFailure: If a tensor is missing on one side or has another shape (ShapesDiffer), or if the weights below are
            others (BaseDiffers), naming tensors and the knob.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    differing = [
        f"{name} {_shape(kept)} -> {_shape(tensors.get(name))}"
        for name, kept in inheritance.weights.items()
        if name not in tensors or tensors[name].shape != kept.shape
    ]
    lacking = sorted(made - inheritance.weights.keys())
    differing += [f"{name} {_shape(None)} -> {_shape(tensors[name])}" for name in lacking]
    if differing:
        raise RunFailure(
            "ShapesDiffer",
            f"{_knob(differing)}: the weights of {inheritance.parent} do not fit this run, {_listed(differing)}; keep "
            "what shapes them as it is, or clone without warmStart",
        )
    below = {name: (mine, inheritance.frozen[name]) for name, mine in frozen.items() if name in inheritance.frozen}
    others = [name for name, (mine, theirs) in below.items() if mine[0] == theirs[0] and mine[1] != theirs[1]]
    if others:
        raise RunFailure(
            "BaseDiffers",
            f"model_name, model_kwargs, create_model_fn or peft_config.init_lora_weights: the weights of "
            f"{inheritance.parent} were trained on top of others than this run's, {_listed(others)}; keep the model as "
            "it is, or clone without warmStart",
        )
    converted = [name for name, kept in inheritance.weights.items() if tensors[name].dtype != kept.dtype]
    converted += [name for name, (mine, theirs) in below.items() if mine[0] != theirs[0]]
    if converted:
        _log.warning("the parent's weights have another type and are converted", tensors=_listed(converted))
    with torch.no_grad():
        for name, kept in inheritance.weights.items():
            tensors[name].copy_(kept)


def _unreadable(parent: ParentRef, why: str) -> RunFailure:
    return RunFailure(
        "CheckpointUnreadable", f"spec.parentRef.checkpoint: a warm clone of {parent.name} begins with it: {why}"
    )


def _knob(differing: Iterable[str]) -> str:
    """Return the knob that is likely behind tensors that do not fit."""
    text = " ".join(differing)
    if "modules_to_save" in text:
        return "peft_config.modules_to_save"
    if "lora_" in text:
        absent = "absent" in text
        return "peft_config (target_modules, use_dora, bias, or having one at all)" if absent else "peft_config.r"
    return "model_name, model_kwargs or what create_model_fn makes"


def _shape(tensor: torch.Tensor | None) -> str:
    return "absent" if tensor is None else str(tuple(tensor.shape)).replace(" ", "")


def _listed(names: Collection[str]) -> str:
    shown = list(names)[:_NAMED]
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(shown) + more
