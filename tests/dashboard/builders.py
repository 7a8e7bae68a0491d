"""Experiments, runs and IC Ops as the operator would leave them, written to a real API server."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from kubernetes.client import ApiClient, CustomObjectsApi

from rapidfireai.api.base import API_VERSION, GROUP, VERSION

Body = dict[str, Any]
STEPS = 48
CHUNKS = 8
BOUNDARIES = [STEPS * (chunk + 1) // CHUNKS for chunk in range(CHUNKS)]
_PLURAL = {"Experiment": "experiments", "Run": "runs", "ICOp": "icops"}
_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
_RANKS = (4, 8, 16, 32)


def experiment(name: str = "exp", **status: Any) -> Body:
    """Return an Experiment that runs."""
    config = {"model_name": "tiny", "training_args": {"learning_rate": {"$list": list(_RATES)}}}
    return {
        "apiVersion": API_VERSION,
        "kind": "Experiment",
        "metadata": {"name": name},
        "spec": {
            "configs": [{"trainer": "SFT", "config": config}],
            "chunks": CHUNKS,
            "data": {"train": {"uri": "hf://owner/rows"}, "eval": {"uri": "hf://owner/rows"}},
            "workers": {"replicas": 2},
        },
        "status": {"state": "Running", "mlflowExperimentID": "7", **status},
    }


def config(index: int) -> Body:
    """Return the config of a run; runs differ in learning rate and rank."""
    return {
        "trainer_type": "SFT",
        "model_name": "tiny",
        "peft_params": {"r": _RANKS[index // 4 % 4], "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]},
        "training_args": {
            "learning_rate": _RATES[index % 4] * (1 + index // 16),
            "per_device_train_batch_size": 4,
            "num_train_epochs": 1.0,
            "lr_scheduler_type": "linear",
        },
    }


def value(index: int, step: int) -> float:
    """Return the objective of a run at a step; even rates fall faster."""
    return round(0.6 + 0.15 * math.sin(index) + 2.2 * math.exp(-step * (1 + index % 7) / 60), 5)


def run(
    index: int,
    done: int = 3,
    state: str = "Running",
    worker: int | None = None,
    experiment: str = "exp",
    parent: Body | None = None,
    at: float | None = None,
    **more: Any,
) -> Body:
    """Return a Run.

    Args:
        index: Its number.
        done: How many chunks are committed.
        state: Its state.
        worker: The number of the slot that works on the next chunk, if any.
        experiment: Its experiment.
        parent: The run that it was cloned from.
        at: When the assignment was given, in seconds since the epoch; by default now.
        more: Further keys of the status.
    """
    step = BOUNDARIES[done - 1] if done else 0
    status: Body = {
        "state": state,
        "attempt": done + 1,
        "prepared": {"totalSteps": STEPS, "boundaries": BOUNDARIES, "bytes": 1000},
        "objectiveMetric": "boundary/eval_loss",
        "objective": [
            {"chunk": chunk, "step": BOUNDARIES[chunk], "value": value(index, BOUNDARIES[chunk])}
            for chunk in range(done)
        ],
        "mlflowRunID": f"{index:032x}",
        **more,
    }
    if done:
        loss = value(index, step)
        status["progress"] = {
            "attempt": done,
            "chunk": done - 1,
            "step": step,
            "final": True,
            "loss": f"{loss:.3f}",
            "metrics": {"loss": loss, "boundary/eval_loss": loss, "learning_rate": 1e-4},
            "checkpoint": {"path": f"{step}-{done}", "digest": "0" * 64, "step": step},
        }
    if worker is not None:
        slot = f"{experiment}-w-{worker}"
        status["assignment"] = {
            "worker": slot,
            "pod": f"{slot}-aaaaa",
            "podUID": "u",
            "process": f"{slot}-aaaaa/p",
            "attempt": done + 1,
            "task": "chunk",
            "chunk": done,
            "grantedAt": datetime.now(UTC).timestamp() if at is None else at,
        }
    spec: Body = {
        "experimentRef": experiment,
        "index": index,
        "config": config(index),
        "desiredState": state if state in {"Stopped", "Deleted"} else "Running",
    }
    if parent is not None:
        spec["parentRef"] = parent
    return {
        "apiVersion": API_VERSION,
        "kind": "Run",
        "metadata": {"name": f"{experiment}-r{index}"},
        "spec": spec,
        "status": status,
    }


def parent_ref(body: Mapping[str, Any], *, warm: bool = False) -> Body:
    """Return what a clone says of its parent."""
    spec = body["spec"]
    made: Body = {"name": body["metadata"]["name"], "uid": "u", "index": spec["index"], "warmStart": warm}
    return made | ({"checkpoint": body["status"]["progress"]["checkpoint"]} if warm else {})


class Writer:
    """Writes objects with their status.

    Args:
        client: An administrator's client.
        namespace: Where to.
    """

    def __init__(self, client: ApiClient, namespace: str) -> None:
        self._api, self._namespace = CustomObjectsApi(client), namespace

    def write(self, *bodies: Mapping[str, Any]) -> None:
        """Create objects, or give those that are there another status."""
        for body in bodies:
            plural = _PLURAL[body["kind"]]
            name = body["metadata"]["name"]
            where = (GROUP, VERSION, self._namespace, plural)
            if not self._there(plural, name):
                self._api.create_namespaced_custom_object(*where, body)
            if "status" in body:
                self._api.patch_namespaced_custom_object_status(*where, name, {"status": body["status"]})

    def create(self, body: Mapping[str, Any]) -> None:
        """Create an object that is not there yet."""
        where = (GROUP, VERSION, self._namespace, _PLURAL[body["kind"]])
        self._api.create_namespaced_custom_object(*where, body)
        self._api.patch_namespaced_custom_object_status(*where, body["metadata"]["name"], {"status": body["status"]})

    def many(self, bodies: Iterable[Mapping[str, Any]]) -> None:
        """Create many objects, several at a time."""
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(self.create, bodies))

    def read(self, kind: str) -> list[Body]:
        """Return all objects of a kind."""
        found = self._api.list_namespaced_custom_object(GROUP, VERSION, self._namespace, _PLURAL[kind])
        items: list[Body] = found["items"]
        return items

    def _there(self, plural: str, name: str) -> bool:
        found = self._api.list_namespaced_custom_object(
            GROUP, VERSION, self._namespace, plural, field_selector=f"metadata.name={name}"
        )
        return bool(found["items"])
