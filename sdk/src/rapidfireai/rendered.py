"""The `Experiment` of a script that is rendered: it writes manifests and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from rapidfireai.answers import Evaluation
from rapidfireai.connection import Workspace
from rapidfireai.errors import ExperimentError
from rapidfireai.experiment import Experiment
from rapidfireai.rendering import rendering
from rapidfireai.submission import Submission


class RenderedExperiment(Experiment):
    """Does what `Experiment` does as far as that needs no run; whatever needs one ends the script, without an error."""

    @property
    def workspace(self) -> Workspace:
        """Where the workspace's volume and services are.

        Raises:
            ExperimentError: If no cluster is asked.
        """
        if rendering().offline:
            raise ExperimentError("workspace: a script that asks the cluster cannot be rendered with --offline")
        return super().workspace

    @property
    def kubectl(self) -> str:
        """The command that a person goes on with, namespace included."""
        return f"kubectl --namespace {self._namespace}" if rendering().offline else super().kubectl

    def to_yaml(self, *arguments: Any, **more: Any) -> str:
        """Return the manifest, as `Experiment.to_yaml`."""
        if rendering().offline:
            more.setdefault("directory", rendering().directory)
        return super().to_yaml(*arguments, **more)

    def wait(self) -> None:
        """Nothing runs."""

    def cancel(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Close the connections, if there are any."""
        if not rendering().offline:
            super().close()

    def get_runs_info(self) -> NoReturn:
        """End the script."""
        _needs_runs("get_runs_info()")

    def get_results(self) -> NoReturn:
        """End the script."""
        _needs_runs("get_results()")

    def get_evaluations(self) -> Mapping[int, Evaluation]:
        """Return what ends the script as soon as somebody looks at it: `run_evals` returns it too."""
        return _Unanswered()

    def export(self, run_id: int | str, directory: Path | str, merge: bool = False, *, best: bool = False) -> NoReturn:
        """End the script."""
        _needs_runs("export()")

    def _steering(self) -> NoReturn:
        _needs_runs("stop(), resume(), delete() and clone()")

    def _connect(self, kubeconfig: Path | str | None) -> None:
        if not rendering().offline:
            super()._connect(kubeconfig)

    def _choose_name(self, experiment_name: str) -> None:
        # A manifest is called as its script says, whatever there is on some cluster.
        self.experiment_name = rendering().free_name(experiment_name)

    def _submit(self, submission: Submission) -> None:
        self.experiment_name = rendering().free_name(self.experiment_name)
        directory = rendering().directory if rendering().offline else None
        path = rendering().write(self.experiment_name, self._manifest(submission, directory))
        print(f"rendered {path.name}")

    def _attach(self, experiment_name: str) -> NoReturn:
        _needs_runs("Experiment.attach()")

    def _see_through(self) -> None:
        """Nothing runs."""

    def _needs_reader(self) -> None:
        """Nothing is read."""


class _Unanswered(Mapping[int, Evaluation]):
    """The answers of runs that there are none of."""

    def __getitem__(self, run_id: int) -> NoReturn:
        _needs_runs("the results of run_evals()")

    def __iter__(self) -> Iterator[int]:
        _needs_runs("the results of run_evals()")

    def __len__(self) -> NoReturn:  # noqa: PLE0303 - it ends the script
        _needs_runs("the results of run_evals()")


def _needs_runs(wanted: str) -> NoReturn:
    print(f"{wanted}: nothing has run, the script was only rendered; it ends here")
    raise SystemExit(0)
