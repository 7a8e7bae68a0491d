"""MLflow's feed against a real MLflow server: everything arrives, once, whatever dies or is slow in between."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from mlflow import MlflowClient

from rapidfireai.cluster.control_plane import free_ports
from rapidfireai_worker.layout import RunDirectory, Volume
from rapidfireai_worker.runlog import Cursor, LogLine, RunLog
from rapidfireai_worker.volume.feed import FedRun, Feed, Position, fed_run_of
from rapidfireai_worker.volume.mlflow import Mlflow, MlflowRefused, MlflowUnavailable, key_of, values_of

if TYPE_CHECKING:
    from conftest import WaitUntil, Workspace


class Server:
    """A real MLflow server that can be frozen."""

    def __init__(self, directory: Path) -> None:
        port = free_ports(1)[0]
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "mlflow.log"
        words = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
        words += ["--backend-store-uri", f"sqlite:///{directory}/mlflow.db"]
        words += ["--default-artifact-root", str(directory / "artifacts")]
        words += ["--allowed-hosts", "localhost:*,127.0.0.1:*"]
        environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words],
                env=environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.client = MlflowClient(tracking_uri=self.url)

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return httpx.get(f"{self.url}/health", trust_env=False).is_success
        except httpx.TransportError:
            return False

    def new_run(self) -> str:
        return str(self.client.create_run("0").info.run_id)

    def history(self, run: str, key: str) -> list[tuple[int, float, int]]:
        """(step, value, time in milliseconds) of all that was logged, doubles too."""
        return [(each.step, each.value, each.timestamp) for each in self.client.get_metric_history(run, key)]

    def send(self, number: int) -> None:
        os.killpg(self.process.pid, number)


@pytest.fixture(scope="module")
def mlflow(tmp_path_factory: pytest.TempPathFactory, wait_until: WaitUntil) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("mlflow"))
    try:
        wait_until("answer of MLflow", server.answers, 180)
        yield server
    finally:
        server.send(signal.SIGKILL)
        server.process.wait(10)


@pytest.fixture
def volume(tmp_path: Path) -> Volume:
    return Volume(tmp_path)


def logged(directory: RunDirectory, *steps: int) -> None:
    """Append lines to a run's log, as a worker does."""
    log = RunLog(directory.metrics)
    for step in steps:
        log.append("log", step, step, {"loss": 10.0 / step, "eval_@5": float(step), "broken": float("nan")})
    log.close()


def fed(run: str, name: str = "e-r1") -> FedRun:
    return FedRun(uid=name, name=name, experiment_uid="e", mlflow_run=run)


def times(directory: RunDirectory) -> list[int]:
    return [round(LogLine.model_validate_json(line).time * 1000) for line in directory.metrics.read_text().splitlines()]


@pytest.mark.integration
def test_every_number_arrives_once_with_its_own_step_and_time(mlflow: Server, volume: Volume) -> None:
    run = fed(mlflow.new_run())
    directory = volume.run("e", run.uid)
    feed = Feed(volume, mlflow.url)
    feed.pass_once([run])
    logged(directory, 1, 2)
    feed.pass_once([run])
    logged(directory, 2, 3)
    feed.pass_once([run])
    assert mlflow.history(run.mlflow_run, "loss") == [
        (step, 10.0 / step, time) for step, time in zip((1, 2, 3), times(directory), strict=True)
    ]
    assert [value for _, value, _ in mlflow.history(run.mlflow_run, "eval__at_5")] == [1.0, 2.0, 3.0]
    assert mlflow.history(run.mlflow_run, "broken") == []


@pytest.mark.integration
def test_a_restart_goes_on_where_it_was(mlflow: Server, volume: Volume) -> None:
    run = fed(mlflow.new_run())
    directory = volume.run("e", run.uid)
    logged(directory, 1, 2)
    Feed(volume, mlflow.url).pass_once([run])
    position = Position.model_validate_json(directory.mlflow_position.read_bytes())
    assert position.cursor.position == directory.metrics.stat().st_size
    logged(directory, 3)
    Feed(volume, mlflow.url).pass_once([run])
    assert [step for step, _, _ in mlflow.history(run.mlflow_run, "loss")] == [1, 2, 3]


@pytest.mark.integration
@pytest.mark.parametrize("left", ["nothing", "half", "the beginning"])
def test_lines_that_are_sent_again_after_a_crash_are_no_doubles(mlflow: Server, volume: Volume, left: str) -> None:
    """The service died between sending and noting its place: MLflow drops what it has."""
    run = fed(mlflow.new_run())
    directory = volume.run("e", run.uid)
    logged(directory, 1, 2, 3)
    Feed(volume, mlflow.url).pass_once([run])
    if left == "nothing":
        directory.mlflow_position.unlink()
    elif left == "half":
        directory.mlflow_position.write_bytes(directory.mlflow_position.read_bytes()[:20])
    else:
        beginning = Position(mlflow_run=run.mlflow_run, cursor=Cursor())
        directory.mlflow_position.write_text(beginning.model_dump_json())
    logged(directory, 4)
    Feed(volume, mlflow.url).pass_once([run])
    assert [step for step, _, _ in mlflow.history(run.mlflow_run, "loss")] == [1, 2, 3, 4]


@pytest.mark.integration
def test_a_new_run_in_mlflow_gets_everything(mlflow: Server, volume: Volume) -> None:
    logged(volume.run("e", "e-r1"), 1, 2)
    feed = Feed(volume, mlflow.url)
    for run in (fed(mlflow.new_run()), fed(mlflow.new_run())):
        feed.pass_once([run])
        assert [step for step, _, _ in mlflow.history(run.mlflow_run, "loss")] == [1, 2]


@pytest.mark.integration
def test_many_numbers_are_sent_in_batches(mlflow: Server, volume: Volume) -> None:
    run = fed(mlflow.new_run())
    logged(volume.run("e", run.uid), *range(1, 2501))
    Feed(volume, mlflow.url).pass_once([run])
    assert len(mlflow.history(run.mlflow_run, "loss")) == 2500


def answered(directory: RunDirectory, *rows: int) -> None:
    """Append what an evaluation logs after each shard."""
    log = RunLog(directory.metrics)
    for shard, each in enumerate(rows):
        log.append("shard", shard, each, {"NDCG@5": each / 100, "NDCG@5_confidence_interval": 1 / each})
    log.close()


@pytest.mark.integration
def test_the_step_of_a_shard_is_the_percent_of_the_rows(mlflow: Server, volume: Volume) -> None:
    uncounted = fed(mlflow.new_run())
    run = replace(uncounted, rows=225)
    feed = Feed(volume, mlflow.url)
    directory = volume.run("e", run.uid)
    answered(directory, 57, 113)
    feed.pass_once([uncounted])
    assert mlflow.history(run.mlflow_run, "NDCG_at_5") == [], "nobody knows yet of how many rows these are"

    feed.pass_once([run])
    answered(directory, 57, 113, 169, 225)
    Feed(volume, mlflow.url).pass_once([run])

    assert [each[:2] for each in mlflow.history(run.mlflow_run, "NDCG_at_5")] == [
        (25, 0.57),
        (50, 1.13),
        (75, 1.69),
        (100, 2.25),
    ]
    steps = [step for step, _, _ in mlflow.history(run.mlflow_run, "NDCG_at_5_confidence_interval")]
    assert steps == [25, 50, 75, 100]


@pytest.mark.integration
def test_shards_of_less_than_a_percent_are_neither_lost_nor_doubled(mlflow: Server, volume: Volume) -> None:
    run = replace(fed(mlflow.new_run()), rows=1000)
    answered(volume.run("e", run.uid), 4, 8, 12)
    for _ in range(2):
        volume.run("e", run.uid).mlflow_position.unlink(missing_ok=True)
        Feed(volume, mlflow.url).pass_once([run])
    found = mlflow.history(run.mlflow_run, "NDCG_at_5")
    assert sorted((step, value) for step, value, _ in found) == [(0, 0.04), (0, 0.08), (1, 0.12)]


@pytest.mark.parametrize(("rows", "percent"), [(1, 0), (29, 12), (57, 25), (224, 99), (225, 100)])
def test_the_percent_is_whole_and_a_hundred_only_at_the_end(rows: int, percent: int) -> None:
    line = LogLine(kind="shard", sequence=0, step=rows, time=1.0, values={"a": 1.0})
    assert values_of([line], 225) == [("a", 1.0, 1000, percent)]


def test_steps_of_training_are_sent_as_they_are() -> None:
    line = LogLine(kind="boundary", sequence=0, step=50, time=1.0, values={"a": 1.0})
    assert values_of([line], 200) == [("a", 1.0, 1000, 50)]


def test_how_many_rows_there_are_is_read_from_the_run() -> None:
    owner = {"kind": "Experiment", "uid": "x"}
    body: dict[str, Any] = {
        "metadata": {"uid": "u", "name": "e-r1", "ownerReferences": [owner]},
        "status": {"mlflowRunID": "m"},
    }
    assert fed_run_of(body) == FedRun("u", "e-r1", "x", "m")
    body["status"]["prepared"] = {"totalSteps": 225}
    assert fed_run_of(body) == FedRun("u", "e-r1", "x", "m", 225)


@pytest.mark.integration
def test_a_run_that_mlflow_refuses_holds_up_no_other(mlflow: Server, volume: Volume) -> None:
    gone, other = fed(mlflow.new_run(), "e-r1"), fed(mlflow.new_run(), "e-r2")
    mlflow.client.delete_run(gone.mlflow_run)
    for run in (gone, other):
        logged(volume.run("e", run.uid), 1)
    Feed(volume, mlflow.url).pass_once([gone, other])
    assert [step for step, _, _ in mlflow.history(other.mlflow_run, "loss")] == [1]
    with pytest.raises(MlflowRefused):
        Mlflow(mlflow.url).log(gone.mlflow_run, [_line()])


def _line() -> LogLine:
    return LogLine(kind="log", sequence=1, step=1, time=1.0, values={"loss": 1.0})


def test_an_absent_mlflow_is_told_from_one_that_refuses() -> None:
    with pytest.raises(MlflowUnavailable):
        Mlflow(f"http://127.0.0.1:{free_ports(1)[0]}").log("run", [_line()])


@pytest.mark.integration
def test_the_service_feeds_the_runs_that_mlflow_knows_and_outlives_its_outage(
    workspace: Workspace, mlflow: Server
) -> None:
    workspace.volume_service(RAPIDFIRE_MLFLOW_URL=mlflow.url, MLFLOW_HTTP_REQUEST_TIMEOUT="1")
    run, unknown = workspace.create_run(), workspace.create_run()
    mlflow_run = mlflow.new_run()
    uid = workspace.run(run)["metadata"]["uid"]
    directory = Volume(workspace.volume).run(workspace.experiment["metadata"]["uid"], uid)
    logged(directory, 1)
    workspace.write(run, {"mlflowRunID": mlflow_run})

    def steps() -> list[int]:
        return [step for step, _, _ in mlflow.history(mlflow_run, "loss")]

    workspace.wait("first step", lambda: steps() == [1])
    mlflow.send(signal.SIGSTOP)
    try:
        logged(directory, 2, 3)
        workspace.wait("a line about it", lambda: "metrics are sent later" in workspace.processes[-1].words)
    finally:
        mlflow.send(signal.SIGCONT)
    workspace.wait("all steps", lambda: steps() == [1, 2, 3], 60)
    assert not workspace.log_path(unknown).exists()


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("eval_loss", "eval_loss"),
        ("boundary/eval_loss", "boundary/eval_loss"),
        ("NDCG@5", "NDCG_at_5"),
        ("a:b(c)", "a_b_c_"),
        ("/../a//b/", "a/b"),
        ("..", "_"),
        ("x" * 300, "x" * 250),
        ("größe", "gr__e"),
    ],
)
def test_a_metric_has_a_name_that_mlflow_takes(name: str, key: str) -> None:
    assert key_of(name) == key


def test_numbers_that_are_not_finite_are_not_sent() -> None:
    line = LogLine(kind="log", sequence=1, step=7, time=1.5, values={"a": None, "b": 2.0})
    assert values_of([line]) == [("b", 2.0, 1500, 7)]
