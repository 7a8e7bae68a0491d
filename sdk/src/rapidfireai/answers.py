"""What evaluations came to: the rows that each run answered, and its metrics with their intervals."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rapidfireai.api import Run
from rapidfireai.config_fields import name_of
from rapidfireai.errors import ExperimentError
from rapidfireai.volume import VolumeClient

Rows = dict[str, list[Any]]
"""Columns to their values, one a row."""
Evaluation = tuple[Rows, dict[str, Any]]
"""What a run came to: `aggregated_results` and `cumulative_metrics`."""
PLACE = "_row"
"""The column that says which row of the data set a row is; nobody sees it."""
_AT_ONCE = 8
"""How many runs are fetched at the same time."""
_LEFT_OUT = frozenset({"Failed", "Deleted"})
_MODELS = ("vllm_config", "api_config")
_SETTINGS = ("batch_size", "online_strategy_kwargs")


def check_reader() -> None:
    """See that answers can be read on this machine, before anybody waits for them.

    Raises:
        ExperimentError: If the library is missing.
    """
    try:
        importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise ExperimentError(
            "run_evals: the answers come as Parquet, and reading them needs the package pyarrow: pip install pyarrow"
        ) from error


def evaluations(volume: VolumeClient, experiment_uid: str, runs: Sequence[Run]) -> dict[int, Evaluation]:
    """Return what each run came to, by its number; runs that failed, were deleted or committed no shard are left out.

    Args:
        volume: The workspace's volume service.
        experiment_uid: The experiment.
        runs: All of its runs.

    Raises:
        VolumeError: If the service refuses or cannot be reached.
    """
    check_reader()
    chosen = [run for run in runs if _counts(run)]
    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="answers") as pool:
        found = list(pool.map(lambda run: _evaluation(volume, experiment_uid, run), chosen))
    return {run.spec.index: each for run, each in zip(chosen, found, strict=True) if each is not None}


def _counts(run: Run) -> bool:
    """Return whether a run is one whose answers count: it is whole, or somebody may still go on with it."""
    committed = run.status.committed is not None
    return committed and run.status.state not in _LEFT_OUT and run.spec.desired_state != "Deleted"


def _evaluation(volume: VolumeClient, experiment_uid: str, run: Run) -> Evaluation | None:
    shards = volume.shards(experiment_uid, run.volume_uid)
    if not shards:
        return None
    parts = (_columns(volume.shard_file(each, "rows.parquet")) for each in shards)
    written = volume.shard_json(shards[-1], "cumulative.json")
    return together(parts), cumulative_metrics(run, written)


def _columns(parquet: bytes) -> Rows:
    """Return the content of a Parquet file."""
    library = importlib.import_module("pyarrow.parquet")
    columns: Rows = library.read_table(io.BytesIO(parquet)).to_pydict()
    return columns


def together(shards: Iterable[Mapping[str, Sequence[Any]]]) -> Rows:
    """Return the rows of all shards as one table, in the order in which they were answered.

    A row that was answered more than once, because it failed at first, counts once: the last answer.

    Args:
        shards: The columns of each shard; a column that a shard does not have is None there.
    """
    parts = list(shards)
    names = list(dict.fromkeys(name for part in parts for name in part if name != PLACE))
    chosen: dict[object, tuple[int, int]] = {}
    for number, part in enumerate(parts):
        length = max((len(values) for values in part.values()), default=0)
        places: Sequence[Any] = part.get(PLACE) or [None] * length
        for position, place in enumerate(places):
            key = (number, position) if place is None else place
            chosen.pop(key, None)
            chosen[key] = (number, position)
    return {
        name: [parts[number][name][position] if name in parts[number] else None for number, position in chosen.values()]
        for name in names
    }


def cumulative_metrics(run: Run, written: Mapping[str, Any]) -> dict[str, Any]:
    """Return a run's number, its knobs and its metrics, each as `{"value": ...}`, in the documented order.

    Args:
        run: The run.
        written: What its worker wrote: the metrics over all committed shards.
    """
    said = {"run_id": run.spec.index, **settings_of(run.spec.config)}
    return {name: {"value": value} for name, value in said.items()} | dict(written)


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a person wants to know of an evaluation's config: model, retrieval, prompts, limits, batches.

    Python objects and classes show their names.
    """
    model: Mapping[str, Any] = next((config[name] for name in _MODELS if name in config), {})
    rest = {name: value for name, value in model.items() if name not in {"rag", "prompt_manager"}}
    settings = {
        "model_name": (model.get("model_config") or {}).get("model"),
        **(model.get("rag") or {}),
        "prompt_manager_config": model.get("prompt_manager"),
        **rest,
        **{name: config[name] for name in _SETTINGS if name in config},
    }
    return {name: _plain(value) for name, value in settings.items() if value is not None}


def _plain(value: Any) -> Any:
    """Return a value of a config with names in place of its markers."""
    name = name_of(value)
    if name is not None:
        return name
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list) else value
