"""What a notebook does in these tests, and the part of an operator that answers it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import Dataset
from tests.support.waiting import wait_for

from rapidfireai import Experiment
from rapidfireai.api import Experiment as ExperimentResource
from rapidfireai.automl import List, RFGridSearch, RFLoraConfig, RFModelConfig, RFSFTConfig

from .conftest import Workspace, condition

Act = Callable[[Callable[[], None]], None]


def create_model(config: dict[str, Any]) -> tuple[Any, Any]:
    raise NotImplementedError


def search() -> RFGridSearch:
    config = RFModelConfig(
        model_name="m", peft_config=RFLoraConfig(r=8), training_args=RFSFTConfig(learning_rate=List([1.0, 0.5]))
    )
    return RFGridSearch(config, "SFT")


def rows(count: int = 4) -> Dataset:
    return Dataset.from_list([{"question": f"{i}?", "answer": f"{i}."} for i in range(count)])


def experiment(workspace: Workspace, name: str = "My Sweep") -> Experiment:
    return Experiment(name, namespace=workspace.namespace, kubeconfig=workspace.kubeconfig)


def fit(made: Experiment, **more: Any) -> None:
    arguments = {"config_group": search(), "train_dataset": rows(), "num_chunks": 2, "num_workers": 2, **more}
    made.run_fit(**arguments)


def log_of(found: ExperimentResource) -> str:
    path = Path("rapidfire_experiments", found.metadata.name, "rapidfire.log")
    return path.read_text() if path.exists() else ""


def play(workspace: Workspace, name: str, *, fail: str = "") -> Callable[[], None]:
    """Return the part of an operator that lets the runs of experiment `name` train to their ends."""

    def part() -> None:
        found = wait_for(f"experiment {name}", lambda: workspace.experiment(name))
        runs = workspace.create_runs(found)
        workspace.judge(name, "Running", condition("Accepted", "True"))
        good = [run for run in runs if not run.endswith(fail or "never")]
        for run in good:
            workspace.commit(found, run, 0)
        wait_for("line about the first chunk", lambda: "chunk 1/2" in log_of(found))
        for run in good:
            workspace.commit(found, run, 1)
        for run in runs:
            if run in good:
                workspace.end_run(run)
            else:
                workspace.end_run(run, "Failed", condition("Succeeded", "False", "UserCodeError", "it raised"))
        workspace.judge(name, "Succeeded", condition("Accepted", "True"), condition("Finished", "True"))

    return part
