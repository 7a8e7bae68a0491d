"""Where things lie on the shared volume. Pure paths: nothing here touches the disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """The directory of one run: `experiments/<uid>/runs/<uid>`."""

    root: Path

    @property
    def checkpoints(self) -> Path:
        """Committed and abandoned checkpoints, one directory each."""
        return self.root / "checkpoints"

    @property
    def logs(self) -> Path:
        """The run's logs."""
        return self.root / "logs"

    @property
    def metrics(self) -> Path:
        """The append-only log of every metric: the truth that MLflow is fed from."""
        return self.logs / "metrics.jsonl"

    @property
    def mlflow_position(self) -> Path:
        """How far the log was sent to MLflow."""
        return self.logs / "mlflow.position"

    @property
    def record(self) -> Path:
        """`run.json`: what the worker knows of the run: its config, lineage and commits."""
        return self.root / "run.json"

    @property
    def resource(self) -> Path:
        """`resource.json`: what the API server had of the run, as far as it is worth keeping."""
        return self.root / "resource.json"

    @property
    def shards(self) -> Path:
        """Answered shards of an evaluation, committed and abandoned, one directory each."""
        return self.root / "shards"

    def shard(self, rows: int, attempt: int) -> Path:
        """Return the directory of the shard that `attempt` answers, `rows` being answered with it."""
        return self.shards / f"{rows}-{attempt}"

    def checkpoint(self, step: int, attempt: int) -> Path:
        """Return the directory of the checkpoint that `attempt` makes at `step`."""
        return self.checkpoints / f"{step}-{attempt}"


@dataclass(frozen=True, slots=True)
class Volume:
    """The shared volume, mounted at `root`."""

    root: Path

    @property
    def bundles(self) -> Path:
        """Code bundles, a directory each."""
        return self.root / "bundles"

    @property
    def datasets(self) -> Path:
        """Uploaded data sets, a directory each."""
        return self.root / "datasets"

    @property
    def experiments(self) -> Path:
        """What experiments left, a directory each, by UID."""
        return self.root / "experiments"

    def experiment_record(self, experiment_uid: str) -> Path:
        """Return `experiment.json`: what the API server had of an experiment, as far as it is worth keeping."""
        return self.experiments / experiment_uid / "experiment.json"

    @property
    def prepared(self) -> Path:
        """Rows that were formatted or tokenised, a directory each, by what they were made of."""
        return self.root / "prepared"

    def bundle(self, digest: str) -> Path:
        """Return the file of a code bundle."""
        return self.bundles / digest / "bundle.pkl"

    def dataset(self, digest: str) -> Path:
        """Return the Parquet file of an uploaded data set."""
        return self.datasets / digest / "data.parquet"

    @property
    def uploads(self) -> Path:
        """Uploads that are not whole yet."""
        return self.root / "uploads"

    def partial_upload(self, digest: str) -> Path:
        """Return the file of an upload that may go on where it broke off."""
        return self.uploads / f"{digest}.part"

    @property
    def indexes(self) -> Path:
        """RAG indexes, a directory each, by the digest of their spec."""
        return self.root / "indexes"

    @property
    def models(self) -> Path:
        """The shared Hugging Face cache."""
        return self.root / "models"

    def run(self, experiment_uid: str, run_uid: str) -> RunDirectory:
        """Return the directory of a run."""
        return RunDirectory(self.experiments / experiment_uid / "runs" / run_uid)
