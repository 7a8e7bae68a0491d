"""`Experiment`: what a notebook or script touches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, cast

from rapidfireai.api import Run, run_name
from rapidfireai.api.experiment import MAX_RUNS, MAX_WORKERS
from rapidfireai.calls import no_others, one_of
from rapidfireai.connection import Connection, Workspace
from rapidfireai.errors import ExperimentError
from rapidfireai.export import export_run
from rapidfireai.follow import RefusedError, follow
from rapidfireai.histories import Histories
from rapidfireai.manifest import to_yaml
from rapidfireai.names import free_name, slug
from rapidfireai.progress import LineView, choose_view
from rapidfireai.progress.picture import condition_is
from rapidfireai.records import metric_records, run_records
from rapidfireai.rendering import Folder, is_rendering
from rapidfireai.show.lookup import find
from rapidfireai.show.pods import PodLogs
from rapidfireai.steering import RunIds, Steering, bundled_patch, is_one, names_of, when_of
from rapidfireai.stopping import cancel, park
from rapidfireai.submission import FitCall, Submission, prepare, send, submit
from rapidfireai.training_log import TrainingLog
from rapidfireai.volume import VolumeClient

if TYPE_CHECKING:
    import pandas as pd

_LOG_FILES = {"main": "rapidfire.log", "experiment": "rapidfire.log", "training": "training.log"}


class Experiment:
    """Many configs of one task, trained side by side on a cluster.

    The name is the user's; where it is used already, `_1`, `_2`, ... is added. An experiment of that name that is not
    finished yet is taken up again by `run_fit` with the same arguments; `Experiment.attach` goes back to any other.
    In a `with` statement its connections are closed at the end; the experiment goes on.

    Args:
        experiment_name: What to call it.
        mode: "fit".
        experiments_path: A directory of this machine for the logs of what was seen (`experiment_path` means the same).
        namespace: The workspace on the cluster.
        kubeconfig: The cluster; by default what `KUBECONFIG` names, else the local cluster.

    Raises:
        ClusterNotFoundError: If there is no cluster, or the namespace is no workspace.
        TypeError, ValueError: If an argument is wrong; the message names the right one.
    """

    def __new__(cls, *_: Any, **__: Any) -> Self:
        """Make what only renders, where the environment asks for that."""
        if cls is Experiment and is_rendering():
            from rapidfireai.rendered import RenderedExperiment  # noqa: PLC0415 - it is a subclass of this

            return cast("Self", super().__new__(RenderedExperiment))
        return super().__new__(cls)

    def __init__(
        self,
        experiment_name: str = "",
        mode: str = "fit",
        experiments_path: Path | str | None = None,
        *,
        namespace: str = "default",
        kubeconfig: Path | str | None = None,
        **others: Any,
    ) -> None:
        path = one_of("Experiment", "experiments_path", experiments_path, ("experiment_path",), others)
        known = ("experiment_name", "mode", "experiments_path", "experiment_path", "namespace", "kubeconfig")
        no_others("Experiment", others, known)
        if not isinstance(experiment_name, str):
            raise TypeError(f"experiment_name must be a string, not {experiment_name!r}")
        if mode != "fit":
            raise ValueError(f"mode must be 'fit', not {mode!r}; this version has no evaluations")
        self.mode = mode
        self.experiments_path = Path(path or "./rapidfire_experiments")
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
        open_names = {name for name, each in there.items() if not condition_is(each, "Finished", "True")}
        self.experiment_name = free_name(experiment_name, lambda name: name in there and name not in open_names)
        if slug(self.experiment_name) in open_names:
            self._name = slug(self.experiment_name)

    @classmethod
    def attach(
        cls,
        experiment_name: str,
        experiments_path: Path | str | None = None,
        *,
        namespace: str = "default",
        kubeconfig: Path | str | None = None,
        **others: Any,
    ) -> Self:
        """Go back to an experiment, live or finished, from any machine: all of it is on the cluster.

        Args:
            experiment_name: What it is called, suffix included, or the name of its resource.
            experiments_path: As for `Experiment`.
            namespace: As for `Experiment`.
            kubeconfig: As for `Experiment`.
            **others: As for `Experiment`.

        Raises:
            ExperimentError: If there is none of that name; the message has the names that are near.
            ClusterNotFoundError, TypeError: As for `Experiment`.
        """
        made = cls(
            experiment_name, experiments_path=experiments_path, namespace=namespace, kubeconfig=kubeconfig, **others
        )
        made._attach(experiment_name)
        return made

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

    def run_fit(  # noqa: PLR0913 - as many as an experiment has aspects
        self,
        config_group: Any = None,
        create_model_fn: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        num_chunks: int | None = None,
        seed: int = 42,
        num_workers: int | None = None,
        max_runs: int = MAX_RUNS,
        *,
        policies: Sequence[Any] | None = None,
        **others: Any,
    ) -> None:
        """Train every config, chunk by chunk, and return when no run can go on.

        Ctrl-C lets the workers commit and leave, and says how to go on; nothing is lost. Called once more when the
        experiment is finished, it makes another one with the next free suffix, and this object goes on with that.

        Args:
            config_group: `RFGridSearch(...)`, `RFRandomSearch(...)`, an `RFModelConfig`, a mapping, or a list of
                these (`param_config`).
            create_model_fn: Takes the config of a run and returns (model, tokenizer); None loads `model_name`.
            train_dataset: A `datasets.Dataset`, or a URI that workers can read.
            eval_dataset: What every run is evaluated on at each chunk's end; None compares training losses.
            num_chunks: How many chunks one epoch is cut into (`num_shards`).
            seed: Of every run whose training_args name none.
            num_workers: How many workers; by default as many as the cluster has room for, at most one a run.
            max_runs: How many runs the configs may make; more are refused, since a knob too many is easily written.
            policies: What stops runs without anybody watching, such as
                `[rapidfireai.policies.SuccessiveHalving(eta=3)]`, or mappings as a manifest has them.
            **others: The other names of the arguments above; `num_gpus` may say 1, and `monte_carlo_simulations`
                of newer notebooks has no effect.

        Raises:
            TypeError, ValueError: If an argument is wrong; the message names it and the fix.
            BundleError: If a function cannot be sent to the workers.
            VolumeError: If code or data cannot be stored.
            ExperimentError: If the experiment is refused.
        """
        call = FitCall(
            config_group,
            create_model_fn,
            train_dataset,
            eval_dataset,
            num_chunks,
            seed,
            num_workers,
            max_runs,
            policies,
        )
        with tempfile.TemporaryDirectory(prefix="rapidfireai-") as directory:
            self._submit(prepare(Path(directory), call, others))
        self._see_through()

    def to_yaml(  # noqa: PLR0913 - the arguments of run_fit, and one more
        self,
        config_group: Any = None,
        create_model_fn: Callable[..., Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        num_chunks: int | None = None,
        seed: int = 42,
        num_workers: int | None = None,
        max_runs: int = MAX_RUNS,
        *,
        policies: Sequence[Any] | None = None,
        directory: Path | str | None = None,
        **others: Any,
    ) -> str:
        """Return the manifest of what `run_fit` would run, for kubectl and GitOps; nothing is run.

        Code and data are sent to the volume, so that the manifest can be applied at once.

        Args:
            config_group: As for `run_fit`.
            create_model_fn: As for `run_fit`.
            train_dataset: As for `run_fit`.
            eval_dataset: As for `run_fit`.
            num_chunks: As for `run_fit`.
            seed: As for `run_fit`.
            num_workers: How many workers; 1 by default, since a manifest does not know the room there will be.
            max_runs: As for `run_fit`.
            policies: As for `run_fit`.
            directory: Where code and data are written to instead; `rapidfireai upload` sends them later.
            **others: As for `run_fit`.

        Raises:
            TypeError, ValueError, BundleError, VolumeError: As `run_fit`.
        """
        call = FitCall(
            config_group,
            create_model_fn,
            train_dataset,
            eval_dataset,
            num_chunks,
            seed,
            num_workers,
            max_runs,
            policies,
        )
        with tempfile.TemporaryDirectory(prefix="rapidfireai-") as files:
            return self._manifest(prepare(Path(files), call, others), Path(directory) if directory else None)

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

    def get_runs_info(self) -> pd.DataFrame:
        """Return one row a run: its state, progress, error and config, in the documented columns.

        Raises:
            ExperimentError: If the experiment was deleted.
        """
        import pandas as pd  # noqa: PLC0415 - takes a second, and only two methods need it

        if self._name is None:
            return pd.DataFrame(columns=["run_id"])
        chunks = self._connection.experiment(self._name).spec.chunks
        rows = run_records(self._runs(), chunks)
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run_id"])

    def get_results(self) -> pd.DataFrame:
        """Return one row for each (run, step) that logged something; NaN where a metric was not logged.

        The rows are read from the runs' own logs on the volume, whether MLflow is there or not. Called again, only
        what is new is fetched. Runs that were deleted have none.

        Raises:
            ExperimentError: If the experiment was deleted.
            VolumeError: If the volume service cannot be reached.
        """
        import pandas as pd  # noqa: PLC0415 - as above

        if self._name is None:
            return pd.DataFrame(columns=["run_id", "step"])
        uid = self._connection.experiment(self._name).metadata.uid
        runs = [run for run in self._runs() if run.spec.desired_state != "Deleted"]
        histories = self._histories.of(uid, [run.metadata.uid for run in runs])
        rows = metric_records(dict(zip([run.spec.index for run in runs], histories, strict=True)))
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run_id", "step"])

    def export(self, run_id: int | str, directory: Path | str, merge: bool = False, *, best: bool = False) -> Path:
        """Fetch the model or adapter of a run, with its tokenizer and a model card, into a new directory.

        What breaks off goes on where it was when it is called again; the directory is there when all of it is.

        Args:
            run_id: The run's number, or its name.
            directory: Where the files go; made if it is not there.
            merge: Merge an adapter into its base model. That is done on this machine, with torch.
            best: The commit with the best objective, instead of the last one.

        Raises:
            ExperimentError: If there is no such run, it has committed nothing yet, or the directory is not empty.
            VolumeError: If the volume service refuses or cannot be reached.
        """
        name = run_id if isinstance(run_id, str) else run_name(self._named(), run_id)
        return export_run(self._connection, self._volume, name, Path(directory), merge=merge, best=best)

    def stop(self, run_ids: RunIds, *, when: str = "boundary") -> None:
        """Let runs rest: each commits, keeps its place, and goes on with `resume`.

        It works from any process and thread, also while `run_fit` is busy in another one: see `attach`.

        Args:
            run_ids: A run's number or name, or a list of them.
            when: "boundary" lets the current chunk end, "immediate" the current optimizer step. Nothing is lost.

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
                that the parent began with. What is trained must have the same shapes then.

        Returns:
            The number of the new run; for a list of parents the list of them.

        Raises:
            ConfigError: If the clone could not be run; `.path` names the knob.
            ExperimentError: If it is refused, or the operator does not answer: the operation stays queued then.
            BundleError, VolumeError: If a function cannot be sent to the workers.
            TypeError: If an argument is wrong.
        """
        steering = self._steering()
        wire, bundle = bundled_patch(patch)
        parents = steering.parents(names_of(self._named(), run_id), wire, warm_start=warm_start)
        if bundle is not None:
            send(self._volume, "bundles", "code", bundle.digest, bundle.data)
        made = steering.clone(parents, wire, warm_start=warm_start)
        numbers = [int(name.rpartition("-r")[2]) for name in made]
        return numbers[0] if is_one(run_id) else numbers

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

        What was trained stays: `get_runs_info`, `get_results` and `export` go on to work.
        """
        self.cancel()

    def close(self) -> None:
        """Close the connections of this object; the experiment goes on."""
        self._volume.close()
        self._connection.close()

    def get_log_file_path(self, log_type: str | None = None) -> Path:
        """Return a file of this machine that holds a log, brought up to date.

        Args:
            log_type: "main" or "experiment" (or None) for what run_fit saw, "training" for what the workers wrote as
                far as their pods still have it.

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

    def _named(self) -> str:
        if self._name is None:
            raise ExperimentError("there are no runs yet; call run_fit first")
        return self._name

    def _steering(self) -> Steering:
        return Steering(self._connection, self._named(), print)

    def _runs(self) -> list[Run]:
        return self._connection.runs(self._named())

    def _submit(self, submission: Submission) -> None:
        """Send code and data, and create the experiment or take it up again."""
        submission.send(self._volume)
        spec = submission.spec(submission.workers or self._room(submission.runs))
        made = submit(self._connection, self.experiment_name, spec, print)
        self._name, self.experiment_name = made.metadata.name, made.spec.display_name or made.metadata.name

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

    def _room(self, runs: int) -> int:
        free = self._connection.free_slots()
        if free is None:
            print("num_workers: the cluster does not say how much room it has; taking 1")
        return max(1, min(free or 1, runs, MAX_WORKERS))

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

    def _manifest(self, submission: Submission, directory: Path | None) -> str:
        """Send code and data, to `directory` if one is given, and return the manifest that refers to them."""
        submission.send(Folder(directory) if directory else self._volume)
        spec = submission.spec(submission.workers or 1)
        named = spec.model_copy(update={"display_name": self.experiment_name})
        runs = f"{submission.runs} run{'' if submission.runs == 1 else 's'}"
        first = f"{runs} of an experiment. To start it: kubectl apply --server-side -f FILE"
        files = f"Before that send its code and data: rapidfireai upload DIRECTORY --namespace {self._namespace}"
        comments = [first, files] if directory and submission.has_files else [first]
        return to_yaml(slug(self.experiment_name), self._namespace, named, *comments)
