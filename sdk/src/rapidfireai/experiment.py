"""`Experiment`: what a notebook or script touches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, cast

from rapidfireai import answers, evals_call, fit_call
from rapidfireai.answers import Evaluation
from rapidfireai.api import run_name
from rapidfireai.api.experiment import MAX_RUNS, Mode
from rapidfireai.api.workers import MAX_WORKERS
from rapidfireai.calls import arguments_of, no_others, one_of
from rapidfireai.errors import ExperimentError
from rapidfireai.evals_call import EvalsCall
from rapidfireai.export import export_run
from rapidfireai.fit_call import FitCall
from rapidfireai.keys import command, with_keys
from rapidfireai.manifest import to_yaml
from rapidfireai.names import slug
from rapidfireai.records import evals_records, metric_records, run_records, shard_lines
from rapidfireai.rendering import Folder, is_rendering
from rapidfireai.steered import SteeredExperiment
from rapidfireai.submission import Submission, submit
from rapidfireai.words import WORDS

if TYPE_CHECKING:
    import pandas as pd

_MODES: Mapping[str, Mode] = {"fit": "fit", "eval": "evals", "evals": "evals"}


class Experiment(SteeredExperiment):
    """Many configs of one task, trained or evaluated side by side on a cluster.

    The name is the user's; where it is used already, `_1`, `_2`, ... is added. An experiment of that name that is not
    finished yet is taken up again by `run_fit` or `run_evals` with the same arguments; `Experiment.attach` goes back to
    any other. In a `with` statement its connections are closed at the end; the experiment goes on.

    Args:
        experiment_name: What to call it.
        mode: "fit" to train with `run_fit`; "evals" (or "eval") to evaluate with `run_evals`.
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
        if mode not in _MODES:
            raise ValueError(f"mode must be 'fit' (run_fit) or 'evals' (run_evals), not {mode!r}")
        directory = Path(path or "./rapidfire_experiments")
        super().__init__(experiment_name, _MODES[mode], directory, namespace, kubeconfig)

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
            ExperimentError: If the experiment is refused, or its mode is another one.
        """
        self._needs_mode("fit")
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
        self._run(call, others)

    def run_evals(
        self,
        config_group: Any = None,
        dataset: Any = None,
        num_shards: int | None = None,
        num_actors: int | None = None,
        seed: int = 42,
        *,
        objective: Any = None,
        policies: Sequence[Any] | None = None,
        max_runs: int = MAX_RUNS,
        **others: Any,
    ) -> Mapping[int, Evaluation]:
        """Answer the rows of a data set with every config, shard by shard, and return what each came to.

        After each shard every metric has an estimate for the whole data set with its confidence interval. Ctrl-C lets
        the workers commit and leave, and says how to go on; nothing is lost. Called again it goes on with what is not
        finished; once that is, it makes another experiment with the next free suffix.

        Args:
            config_group: `RFGridSearch(...)`, `RFRandomSearch(...)`, a mapping with `vllm_config` or `api_config` and
                the batch functions, or a list of these (`param_config`).
            dataset: A `datasets.Dataset`, a file of this machine, or a URI that workers can read.
            num_shards: Into how many shards the rows are cut; 4 by default. Each is a random sample of them.
            num_actors: How many workers (`num_workers`); by default as many as the cluster has room for, at most one
                a run.
            seed: Decides the order in which every run sees the rows.
            objective: What ranks the runs: "maximize:Accuracy" or `{"metric": "Accuracy", "direction": "maximize"}`.
                Policies that compare runs need it.
            policies: What stops runs without anybody watching, such as `[rapidfireai.policies.StopWhenBeaten()]`.
            max_runs: How many runs the configs may make.
            **others: The other names of the arguments above; `gpus_per_actor` may say 0 or 1, and `cpus_per_actor` has
                no effect.

        Returns:
            For each run that was not deleted and did not fail `{run_id: (aggregated_results, cumulative_metrics)}`: the
            columns of the answered rows, and the metrics as `{"value": ..., "lower_bound": ..., "upper_bound": ...}`.

        Raises:
            TypeError, ValueError: If an argument is wrong; the message names it and the fix.
            BundleError: If a function cannot be sent to the workers.
            VolumeError: If code or data cannot be stored, or the answers cannot be fetched.
            ExperimentError: If the experiment is refused, or its mode is another one.
        """
        self._needs_mode("evals")
        self._needs_reader()
        self._run(EvalsCall(config_group, dataset, num_shards, num_actors, seed, objective, policies, max_runs), others)
        return self.get_evaluations()

    def to_yaml(self, *arguments: Any, directory: Path | str | None = None, **named: Any) -> str:
        """Return the manifest of what `run_fit` or `run_evals` would run, for kubectl and GitOps; nothing is run.

        Code and data are sent to the volume, so that the manifest can be applied at once. API keys are not in it: it
        says how to make their Secret.

        Args:
            *arguments: As for `run_fit`, in an experiment of evaluations as for `run_evals`. Without a number of
                workers there is 1, since a manifest does not know the room there will be.
            directory: Where code and data are written to instead; `rapidfireai upload` sends them later.
            **named: As for `run_fit` or `run_evals`.

        Raises:
            TypeError, ValueError, BundleError, VolumeError: As `run_fit` and `run_evals`.
        """
        kind = FitCall if self.mode == "fit" else EvalsCall
        call = kind(**arguments_of(WORDS[self.mode].function, kind, arguments, named))
        with tempfile.TemporaryDirectory(prefix="rapidfireai-") as files:
            return self._manifest(_checked(Path(files), call, named), Path(directory) if directory else None)

    def get_runs_info(self) -> pd.DataFrame:
        """Return one row a run: its state, progress, error and config, in the documented columns.

        Raises:
            ExperimentError: If the experiment was deleted.
        """
        import pandas as pd  # noqa: PLC0415 - takes a second, and only two methods need it

        if self._name is None:
            return pd.DataFrame(columns=["run_id"])
        spec = self._connection.experiment(self._name).spec
        runs = self._runs()
        rows = evals_records(runs, spec.shards) if spec.mode == "evals" else run_records(runs, spec.chunks)
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run_id"])

    def get_results(self) -> pd.DataFrame:
        """Return one row for each (run, step) that logged something; NaN where a metric was not logged.

        Of evaluations the step is the number of rows answered, and there is one after each shard: the estimates with
        their bounds. The rows are read from the runs' own logs on the volume, whether MLflow is there or not. Called
        again, only what is new is fetched. Runs that were deleted have none.

        Raises:
            ExperimentError: If the experiment was deleted.
            VolumeError: If the volume service cannot be reached.
        """
        import pandas as pd  # noqa: PLC0415 - as above

        if self._name is None:
            return pd.DataFrame(columns=["run_id", "step"])
        found = self._connection.experiment(self._name)
        runs = [run for run in self._runs() if run.spec.desired_state != "Deleted"]
        histories = self._histories.of(found.volume_uid, [run.volume_uid for run in runs])
        if found.spec.mode == "evals":
            histories = [shard_lines(lines) for lines in histories]
        rows = metric_records(dict(zip([run.spec.index for run in runs], histories, strict=True)))
        return pd.DataFrame(rows) if rows else pd.DataFrame(columns=["run_id", "step"])

    def get_evaluations(self) -> Mapping[int, Evaluation]:
        """Return what `run_evals` returns, at any time: the answers so far, and the metrics over them.

        Raises:
            ExperimentError: If there are no runs yet, or the experiment trains.
            VolumeError: If the volume service cannot be reached.
        """
        self._needs_mode("evals")
        uid = self._connection.experiment(self._named()).volume_uid
        return answers.evaluations(self._volume, uid, self._runs())

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

    def _needs_mode(self, mode: Mode) -> None:
        if self.mode != mode:
            raise ExperimentError(
                f"{WORDS[mode].function} needs an experiment of mode {mode!r}, and this one has mode {self.mode!r}; "
                f"call {WORDS[self.mode].function}, or make another one: Experiment(name, mode={mode!r})"
            )

    def _needs_reader(self) -> None:
        answers.check_reader()

    def _run(self, call: FitCall | EvalsCall, others: dict[str, Any]) -> None:
        with tempfile.TemporaryDirectory(prefix="rapidfireai-") as directory:
            self._submit(_checked(Path(directory), call, others))
        self._see_through()

    def _submit(self, submission: Submission) -> None:
        """Send code and data, and create the experiment or take it up again."""
        submission.send(self._volume)
        spec = submission.spec(submission.workers or self._room(submission.runs))
        made = submit(self._connection, self.experiment_name, spec, print, submission.keys)
        self._name, self.experiment_name = made.metadata.name, made.spec.display_name or made.metadata.name

    def _room(self, runs: int) -> int:
        free = self._connection.free_slots()
        if free is None:
            print("num_workers: the cluster does not say how much room it has; taking 1")
        return max(1, min(free or 1, runs, MAX_WORKERS))

    def _manifest(self, submission: Submission, directory: Path | None) -> str:
        """Send code and data, to `directory` if one is given, and return the manifest that refers to them."""
        submission.send(Folder(directory) if directory else self._volume)
        name = slug(self.experiment_name)
        spec = submission.spec(submission.workers or 1)
        named = with_keys(spec, name, submission.keys).model_copy(update={"display_name": self.experiment_name})
        runs = f"{submission.runs} run{'' if submission.runs == 1 else 's'}"
        comments = [f"{runs} of an experiment. To start it: kubectl apply --server-side -f FILE"]
        if directory and submission.has_files:
            comments.append(
                f"Before that send its code and data: rapidfireai upload DIRECTORY --namespace {self._namespace}"
            )
        if submission.keys:
            comments.append(f"Its API keys are not in here: {command(name, self._namespace, submission.keys)}")
        return to_yaml(name, self._namespace, named, *comments)


def _checked(directory: Path, call: FitCall | EvalsCall, others: dict[str, Any]) -> Submission:
    """Return what a call comes to, before anything of it leaves this machine."""
    if isinstance(call, FitCall):
        return fit_call.prepare(directory, call, others)
    return evals_call.prepare(directory, call, others)
