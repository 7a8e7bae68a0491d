"""An experiment that is there: steering its runs, following it, and its logs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rapidfireai.api import Run
from rapidfireai.api.experiment import Mode
from rapidfireai.connection import Connection, Workspace
from rapidfireai.errors import ExperimentError
from rapidfireai.follow import RefusedError, follow
from rapidfireai.histories import Histories
from rapidfireai.names import free_name, slug
from rapidfireai.progress import LineView, choose_view
from rapidfireai.progress.picture import condition_is
from rapidfireai.show.lookup import find
from rapidfireai.show.pods import PodLogs
from rapidfireai.steering import RunIds, Steering, bundled_patch, is_one, names_of, when_of
from rapidfireai.stopping import cancel, park
from rapidfireai.submission import send
from rapidfireai.training_log import TrainingLog
from rapidfireai.volume import VolumeClient
from rapidfireai.words import WORDS

_LOG_FILES = {"main": "rapidfire.log", "experiment": "rapidfire.log", "training": "training.log"}


class SteeredExperiment:
    """What can be done with an experiment, whatever its runs do.

    Args:
        experiment_name: What the user calls it.
        mode: What its runs do.
        experiments_path: A directory of this machine for logs.
        namespace: The workspace on the cluster.
        kubeconfig: The cluster.
    """

    def __init__(
        self, experiment_name: str, mode: Mode, experiments_path: Path, namespace: str, kubeconfig: Path | str | None
    ) -> None:
        self.mode: Mode = mode
        self.experiments_path = experiments_path
        self._namespace = namespace
        self._name: str | None = None
        self._connect(kubeconfig)
        self._choose_name(experiment_name)

    def _connect(self, kubeconfig: Path | str | None) -> None:
        self._connection = Connection(self._namespace, kubeconfig)
        self._workspace = self._connection.workspace()
        self._volume = VolumeClient(self._workspace.volume_url, self._connection.volume_token)
        self._histories = Histories(self._volume)

    def _choose_name(self, experiment_name: str) -> None:
        there = {each.metadata.name: each for each in self._connection.experiments()}
        open_names = {
            name
            for name, each in there.items()
            if not condition_is(each, "Finished", "True") and each.spec.mode == self.mode
        }
        self.experiment_name = free_name(experiment_name, lambda name: name in there and name not in open_names)
        if slug(self.experiment_name) in open_names:
            self._name = slug(self.experiment_name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Experiment {self.experiment_name!r} in namespace {self._namespace}>"

    @property
    def name(self) -> str:
        """The name of the Experiment resource; its runs are called `<name>-r1` and so on."""
        return self._name or slug(self.experiment_name)

    @property
    def workspace(self) -> Workspace:
        """Where the workspace's volume and services are."""
        return self._workspace

    @property
    def kubectl(self) -> str:
        """The command that a person goes on with, namespace included."""
        return self._connection.kubectl

    def wait(self) -> None:
        """Show how the experiment goes on, and return when no run can go on.

        Ctrl-C ends the watching and nothing else.

        Raises:
            ExperimentError: If there is no such experiment any more, or it was refused.
        """
        name = self._named()
        try:
            self._follow(name)
        except KeyboardInterrupt:
            print(f"{name} goes on without you. To stop its runs: experiment.cancel()")
            raise

    def stop(self, run_ids: RunIds, *, when: str = "boundary") -> None:
        """Let runs rest: each commits, keeps its place, and goes on with `resume`.

        It works from any process and thread, also while `run_fit` or `run_evals` is busy in another one: see
        `attach`.

        Args:
            run_ids: A run's number or name, or a list of them.
            when: "boundary" lets the current chunk end, "immediate" the current optimizer step or batch. Nothing
                is lost.

        Raises:
            ExperimentError: If it is refused for a run; the others are stopped. Or if the operator does not answer: the
                operation stays queued then.
            TypeError, ValueError: If an argument is wrong.
        """
        self._steering().ask("Stop", names_of(self._named(), run_ids), when_of(when))

    def resume(self, run_ids: RunIds) -> None:
        """Let runs go on that were stopped.

        Args:
            run_ids: As for `stop`.

        Raises:
            ExperimentError, TypeError: As `stop`.
        """
        self._steering().ask("Resume", names_of(self._named(), run_ids))

    def delete(self, run_ids: RunIds, *, when: str = "boundary") -> None:
        """End runs for good and hide their results; their checkpoints stay, and they can still be cloned.

        Args:
            run_ids: As for `stop`.
            when: As for `stop`.

        Raises:
            ExperimentError, TypeError, ValueError: As `stop`.
        """
        self._steering().ask("Delete", names_of(self._named(), run_ids), when_of(when))

    def clone(
        self, run_id: RunIds, patch: Mapping[str, Any] | None = None, warm_start: bool = False
    ) -> int | list[int]:
        """Make a new run of one that is there, with some of its knobs changed.

        Args:
            run_id: The parent's number or name; of a list each is cloned.
            patch: What changes, such as `{"training_args": {"learning_rate": 1e-4}}`; keys may be dotted paths
                (`"training_args.learning_rate"`), None takes a knob away, and functions are inherited unless the patch
                has others. Values may be config objects such as `RFLoraConfig(...)`.
            warm_start: Whether the clone begins with the weights that its parent has committed last, instead of those
                that the parent began with. What is trained must have the same shapes then; evaluations have no weights.

        Returns:
            The number of the new run; for a list of parents the list of them.

        Raises:
            ConfigError: If the clone could not be run; `.path` names the knob.
            ExperimentError: If it is refused, or the operator does not answer: the operation stays queued then.
            BundleError, VolumeError: If a function cannot be sent to the workers.
            TypeError: If an argument is wrong.
        """
        steering = self._steering()
        if warm_start and self.mode == "evals":
            raise ExperimentError(
                "clone: warm_start belongs to training; an evaluation has no weights to begin with; leave it out: the "
                "clone answers all rows with its own config"
            )
        wire, bundle = bundled_patch(patch)
        parents = steering.parents(names_of(self._named(), run_id), wire, warm_start=warm_start)
        if bundle is not None:
            send(self._volume, "bundles", "code", bundle.digest, bundle.data)
        made = steering.clone(parents, wire, warm_start=warm_start)
        numbers = [int(name.rpartition("-r")[2]) for name in made]
        return numbers[0] if is_one(run_id) else numbers

    def suspend(self) -> None:
        """Let the whole experiment rest: workers commit at their next step and leave, and no run is changed."""
        self._connection.change(self._named(), {"suspend": True})

    def unsuspend(self) -> None:
        """Let a suspended experiment go on where it was, bit for bit."""
        self._connection.change(self._named(), {"suspend": False})

    def cancel(self) -> None:
        """Stop every run that is not finished; each commits at its next optimizer step and stays resumable."""
        if self._name is None:
            print("No experiment is running.")
            return
        cancel(self._connection, self._name, print)

    def cancel_current(self) -> None:
        """Do as `cancel`: the name that notebooks know."""
        self.cancel()

    def end(self) -> None:
        """Let the workers leave at once, and stop the runs that are not finished as `cancel` does.

        What was committed stays: `get_runs_info`, `get_results` and `export` go on to work.
        """
        self.cancel()

    def close(self) -> None:
        """Close the connections of this object; the experiment goes on."""
        self._volume.close()
        self._connection.close()

    def get_log_file_path(self, log_type: str | None = None) -> Path:
        """Return a file of this machine that holds a log, brought up to date.

        Args:
            log_type: "main" or "experiment" (or None) for what run_fit or run_evals saw, "training" for what the
                workers wrote as far as their pods still have it.

        Raises:
            ValueError: For any other log.
        """
        wanted = (log_type or "main").lower()
        if wanted not in _LOG_FILES:
            raise ValueError(f"log_type must be 'main', 'experiment' or 'training', not {log_type!r}")
        path = self.experiments_path / self.name / _LOG_FILES[wanted]
        if wanted == "training" and self._name is not None:
            self._training_log(self._name).fetch()
        return path

    def _attach(self, experiment_name: str) -> None:
        found = find(self._connection, experiment_name).experiment
        self._name = found.metadata.name
        self.experiment_name = found.spec.display_name or found.metadata.name
        self.mode = found.spec.mode

    def _named(self) -> str:
        if self._name is None:
            raise ExperimentError(f"there are no runs yet; call {WORDS[self.mode].function} first")
        return self._name

    def _steering(self) -> Steering:
        return Steering(self._connection, self._named(), print)

    def _runs(self) -> list[Run]:
        return self._connection.runs(self._named())

    def _see_through(self) -> None:
        """Follow what was submitted; an interrupt parks it."""
        name = self._named()
        try:
            self._follow(name)
        except RefusedError:
            # It has no runs and never will: what is left of it would only take the name.
            self._connection.delete_experiment(name)
            self._name = None
            raise
        except KeyboardInterrupt:
            park(self._connection, name, print)
            raise

    def _follow(self, name: str) -> None:
        log = self.get_log_file_path()
        log.parent.mkdir(parents=True, exist_ok=True)
        shown, training = choose_view(), self._training_log(name)
        with log.open("a") as file:
            record = LineView(lambda line: print(time.strftime("%F %T"), line, file=file, flush=True))
            try:
                follow(self._connection, name, (shown, record, training))
            finally:
                shown.close()
                training.close()

    def _training_log(self, name: str) -> TrainingLog:
        path = self.experiments_path / name / _LOG_FILES["training"]
        return TrainingLog(path, PodLogs(self._connection, self._connection.experiment(name)).new)
