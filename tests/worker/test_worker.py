"""The worker's process on a real API server, behind the chart's fence, with an engine that follows a script."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httpx
import psutil
import pytest

from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.processes import BackgroundProcess

MERGE = {"Content-Type": "application/merge-patch+json"}

if TYPE_CHECKING:
    from conftest import Process, Workspace

pytestmark = pytest.mark.integration


def test_an_assignment_is_prepared_computed_made_durable_and_committed(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run()
    attempt = workspace.assign(run, workspace.holder(), chunk=-1)
    prepared = workspace.committed(run, attempt)
    assert prepared["prepared"] == {"totalSteps": 8, "boundaries": [4, 8], "bytes": 1000, "indexBuilt": False}
    for chunk, step in ((0, 4), (1, 8)):
        attempt = workspace.assign(run, workspace.holder(), chunk=chunk)
        commit = workspace.committed(run, attempt)
        assert (commit["chunk"], commit["step"], commit["checkpoint"]["step"]) == (chunk, step, step)
        assert (workspace.volume / commit["checkpoint"]["path"] / "manifest.json").is_file()
        assert commit["metrics"]["loss"] == 8.0 / step
        assert commit["loss"] == f"{8.0 / step:.4g}"
        assert "prepared" not in commit
    assert [line["sequence"] for line in workspace.metrics_log(run)] == [1, 2, 3, 4, 5, 6, 7, 8]


def test_an_index_is_built_reported_and_committed(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(gates=["index"])
    attempt = workspace.assign(run, workspace.holder(), chunk=-1, task="index")
    told = workspace.wait("progress", lambda: (now := workspace.progress(run)) and now.get("metrics") and now)
    assert (told["step"], told["metrics"]) == (0, {"Documents Indexed": 3, "Documents": 9})
    workspace.open_gate(run, "index")
    prepared = workspace.committed(run, attempt)["prepared"]
    assert (prepared["index"], prepared["indexBuilt"]) == ("a" * 64, True)


def test_who_stops_at_once_waits_for_no_index_and_pays_nothing(workspace: Workspace) -> None:
    worker = workspace.worker()
    run = workspace.create_run(gates=["index"])
    attempt = workspace.assign(run, workspace.holder(), chunk=-1, task="index")
    workspace.wait("the build", lambda: workspace.trace("index"))
    workspace.patch(run, {"desiredState": "Stopped", "when": "Immediate"})
    error = workspace.committed(run, attempt)["error"]
    assert (error["reason"], error["blame"]) == ("IndexAbandoned", "Infrastructure")
    assert worker.terminate() == 0


def test_a_commit_takes_away_what_earlier_estimates_had(workspace: Workspace) -> None:
    workspace.worker()
    sure = {"Accuracy": {"value": 0.5, "lower": 0.4, "upper": 0.6}, "Other": {"value": 1.0}}
    run = workspace.create_run(estimates=[sure, {"Accuracy": {"value": 0.75}}])
    first = workspace.committed(run, workspace.assign(run, workspace.holder()))
    assert first["estimates"] == sure
    second = workspace.committed(run, workspace.assign(run, workspace.holder(), chunk=1))
    assert second["estimates"] == {"Accuracy": {"value": 0.75}}


def test_progress_is_reported_while_a_chunk_computes(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(gates=[3])
    attempt = workspace.assign(run, workspace.holder())
    begun = workspace.wait("the first report", lambda: workspace.progress(run))
    assert (begun["final"], begun["attempt"]) == (False, attempt)
    seen = workspace.wait("progress", lambda: (now := workspace.progress(run)) and now["step"] and now)
    assert (seen["final"], seen["step"], seen["attempt"]) == (False, 2, attempt)
    assert "checkpoint" not in seen
    workspace.open_gate(run, 3)
    workspace.committed(run, attempt)


def test_a_commit_takes_away_metrics_of_earlier_attempts(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(boundary_metrics=[{"boundary/eval_loss": 2.5}, {}])
    first = workspace.committed(run, workspace.assign(run, workspace.holder()))
    assert first["metrics"]["boundary/eval_loss"] == 2.5
    second = workspace.committed(run, workspace.assign(run, workspace.holder(), chunk=1))
    assert "boundary/eval_loss" not in second["metrics"]


def test_the_oldest_assignment_goes_first_and_persisting_overlaps_with_the_next(workspace: Workspace) -> None:
    workspace.worker()
    first = workspace.create_run(gates=[1])
    workspace.assign(first, workspace.holder(), grantedAt=500.0)
    workspace.wait("the worker is busy", lambda: workspace.trace("chunk"))
    younger = workspace.create_run()
    older = workspace.create_run(persist_gate=True)
    attempts = {
        younger: workspace.assign(younger, workspace.holder(), grantedAt=2000.0),
        older: workspace.assign(older, workspace.holder(), grantedAt=1000.0),
    }
    workspace.open_gate(first, 1)
    workspace.wait("chunk of the younger", lambda: [x for x in workspace.trace("computed") if x["run"] == younger])
    assert [line["run"] for line in workspace.trace("chunk")] == [first, older, younger]
    assert not workspace.progress(older).get("final")
    workspace.open_gate(older, "persist")
    for run, attempt in attempts.items():
        workspace.committed(run, attempt)


def test_a_cleared_assignment_is_discarded_and_its_session_dropped(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(gates=[3])
    workspace.assign(run, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    workspace.write(run, {"assignment": None})
    workspace.wait("eviction", lambda: workspace.trace("evict"))
    assert not workspace.progress(run).get("final")
    assert not workspace.trace("persist")
    workspace.open_gate(run, 3)
    attempt = workspace.assign(run, workspace.holder())
    assert workspace.committed(run, attempt)["step"] == 4
    assert [line["step"] for line in workspace.trace("chunk")] == [0, 0]


def test_a_deleted_run_is_dropped_at_once(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(gates=[3])
    workspace.assign(run, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    assert workspace.admin.delete(workspace.path("runs", run)).is_success
    workspace.wait("eviction", lambda: workspace.trace("evict"))
    assert not workspace.trace("persist")


def test_a_stopped_run_is_not_begun(workspace: Workspace) -> None:
    workspace.worker()
    stopped, other = workspace.create_run(), workspace.create_run()
    workspace.patch(stopped, {"desiredState": "Stopped"})
    workspace.assign(stopped, workspace.holder())
    workspace.committed(other, workspace.assign(other, workspace.holder()))
    assert [line["run"] for line in workspace.trace("chunk")] == [other]


def test_a_run_that_is_stopped_in_a_chunk_commits_it_and_leaves_when_the_operator_clears_it(
    workspace: Workspace,
) -> None:
    workspace.worker()
    run = workspace.create_run(gates=[3])
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    workspace.patch(run, {"desiredState": "Stopped"})
    workspace.open_gate(run, 3)
    assert workspace.committed(run, attempt)["step"] == 4
    assert not workspace.trace("evict")
    workspace.write(run, {"state": "Stopped", "assignment": None})
    workspace.wait("eviction", lambda: workspace.trace("evict"))


@pytest.mark.parametrize("desired", ["Stopped", "Deleted"])
def test_a_run_that_ends_at_once_commits_its_step_and_leaves_when_the_operator_clears_it(
    workspace: Workspace, desired: str
) -> None:
    workspace.worker()
    run = workspace.create_run(gates=[3])
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    workspace.patch(run, {"desiredState": desired, "when": "Immediate"})
    commit = workspace.committed(run, attempt)
    assert (commit["chunk"], commit["checkpoint"]["step"], commit.get("error")) == (0, 3, None)
    workspace.write(run, {"state": desired, "assignment": None})
    workspace.wait("eviction", lambda: workspace.trace("evict"))


def test_a_run_that_was_stopped_at_once_goes_on_where_it_was(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(gates=[3])
    first = workspace.assign(run, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    workspace.patch(run, {"desiredState": "Stopped", "when": "Immediate"})
    assert workspace.committed(run, first)["step"] == 3
    workspace.write(run, {"state": "Stopped", "assignment": None})
    workspace.patch(run, {"desiredState": "Running", "when": "Boundary"})
    assert workspace.committed(run, workspace.assign(run, workspace.holder()))["step"] == 4
    assert [line["step"] for line in workspace.trace("chunk")] == [0, 3]
    assert [line["sequence"] for line in workspace.metrics_log(run)] == [1, 2, 3, 4]


def test_an_assignment_that_waits_is_not_begun_when_its_run_is_stopped_at_once(workspace: Workspace) -> None:
    workspace.worker()
    busy, run = workspace.create_run(gates=[3]), workspace.create_run()
    attempt = workspace.assign(busy, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    workspace.assign(run, workspace.holder())
    workspace.patch(run, {"desiredState": "Stopped", "when": "Immediate"})
    workspace.open_gate(busy, 3)
    workspace.committed(busy, attempt)
    other = workspace.create_run()
    workspace.committed(other, workspace.assign(other, workspace.holder()))
    assert [line["run"] for line in workspace.trace("chunk")] == [busy, other]


def test_an_assignment_that_was_given_up_before_it_began_is_begun_when_its_run_goes_on(workspace: Workspace) -> None:
    """The user stops the run at once and thinks better of it, before the operator has taken the assignment back."""
    worker = workspace.worker(ENGINE_WAITS="1")
    run = workspace.create_run()
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait("assignment", lambda: 'worker_assignments{experiment="e",worker="e-w-0"} 1.0' in prometheus(worker))
    workspace.patch(run, {"desiredState": "Stopped", "when": "Immediate"})
    workspace.wait("the order", lambda: "told to end after its optimizer step" in worker.words)
    workspace.open_gate("engine", "")
    workspace.wait("its end", lambda: '"outcome": "discarded"' in worker.words)
    workspace.patch(run, {"desiredState": "Running", "when": "Boundary"})
    assert workspace.committed(run, attempt)["step"] == 4


def test_a_checkpoint_that_was_pinned_while_its_chunk_ran_is_known_to_the_engine(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(pin_at=8)
    first = workspace.committed(run, workspace.assign(run, workspace.holder()))
    attempt = workspace.assign(run, workspace.holder(), chunk=1)
    workspace.wait("the chunk", lambda: len(workspace.trace("persist")) == 2)
    workspace.write(run, {"pinned": [first["checkpoint"]]})
    workspace.committed(run, attempt)
    assert [line["pinned"] for line in workspace.trace("persisted")] == [[], [first["checkpoint"]["path"]]]


def test_a_run_without_an_assignment_stays_warm(workspace: Workspace) -> None:
    workspace.worker()
    run, other = workspace.create_run(), workspace.create_run()
    workspace.committed(run, workspace.assign(run, workspace.holder()))
    workspace.write(run, {"assignment": None})
    workspace.committed(other, workspace.assign(other, workspace.holder()))
    assert not workspace.trace("evict")
    workspace.committed(run, workspace.assign(run, workspace.holder(), chunk=1))


def test_an_assignment_of_another_process_is_left_alone(workspace: Workspace) -> None:
    workspace.worker()
    stale, run = workspace.create_run(), workspace.create_run()
    workspace.assign(stale, "e-w-0-aaaaa/an-earlier-process")
    workspace.committed(run, workspace.assign(run, workspace.holder()))
    assert [line["run"] for line in workspace.trace("chunk")] == [run]


def test_sigterm_commits_the_step_that_was_reached_and_gives_the_lease_back(workspace: Workspace) -> None:
    worker = workspace.worker()
    run = workspace.create_run(gates=[3])
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    assert worker.terminate() == 0
    commit = workspace.progress(run)
    assert (commit["final"], commit["attempt"], commit["checkpoint"]["step"]) == (True, attempt, 3)
    assert workspace.lease()["spec"].get("holderIdentity", "") == ""


@pytest.mark.parametrize("script", [{"gates": ["prepare"]}, {}])
def test_sigterm_does_not_wait_for_what_loses_nothing(workspace: Workspace, script: dict[str, Any]) -> None:
    worker = workspace.worker()
    if script:
        run = workspace.create_run(**script)
        workspace.assign(run, workspace.holder(), chunk=-1)
        workspace.wait("prepare", lambda: workspace.trace("prepare"))
    assert worker.terminate() == 0
    assert workspace.lease()["spec"].get("holderIdentity", "") == ""


def test_a_worker_that_hangs_leaves_when_its_grace_is_over(workspace: Workspace) -> None:
    worker = workspace.worker(RAPIDFIRE_GRACE_SECONDS="1")
    run = workspace.create_run(persist_gate=True)
    workspace.assign(run, workspace.holder())
    workspace.wait("persist", lambda: workspace.trace("persist"))
    assert worker.terminate() == 1
    assert not workspace.progress(run).get("final")


def test_a_second_sigterm_ends_it_at_once(workspace: Workspace) -> None:
    worker = workspace.worker()
    run = workspace.create_run(persist_gate=True)
    workspace.assign(run, workspace.holder())
    workspace.wait("persist", lambda: workspace.trace("persist"))
    worker.popen.send_signal(signal.SIGTERM)
    workspace.wait("first signal's line", lambda: "told to leave" in worker.words)
    assert worker.terminate() == 1


def test_the_lease_is_kept_while_the_engine_is_still_being_imported(workspace: Workspace) -> None:
    worker = workspace.worker(ENGINE_WAITS="1", RAPIDFIRE_LEASE_SECONDS="3")
    run = workspace.create_run()
    attempt = workspace.assign(run, workspace.holder())
    first = workspace.lease()["spec"]["renewTime"]
    workspace.wait("renewals", lambda: workspace.lease()["spec"]["renewTime"] > first)
    workspace.open_gate("engine", "")
    workspace.committed(run, attempt)
    assert worker.popen.poll() is None


def test_a_worker_may_leave_while_its_engine_is_still_being_imported(workspace: Workspace) -> None:
    worker = workspace.worker(ENGINE_WAITS="1")
    run = workspace.create_run()
    workspace.assign(run, workspace.holder())
    assert worker.terminate() == 0


@pytest.mark.ml
def test_importing_torch_does_not_cost_the_lease(workspace: Workspace) -> None:
    """The import holds the interpreter; the Lease is short here, so that a pause of many seconds would show."""
    worker = workspace.real_worker(RAPIDFIRE_LEASE_SECONDS="15")
    holder = workspace.holder()
    workspace.wait("engine", lambda: worker.popen.poll() is not None or "engine ready" in worker.words, 300)
    assert worker.popen.poll() is None, worker.words
    assert workspace.lease()["spec"]["holderIdentity"] == holder
    assert worker.terminate() == 0


@pytest.mark.ml
def test_a_worker_may_leave_while_torch_is_being_imported(workspace: Workspace) -> None:
    worker = workspace.real_worker()
    assert "engine ready" not in worker.words
    assert worker.terminate() == 0


def _freeze(server: psutil.Process, plane: ControlPlane) -> Callable[[], None]:
    server.suspend()
    return server.resume


def _kill(server: psutil.Process, plane: ControlPlane) -> Callable[[], None]:
    server.kill()
    server.wait(10)
    return plane.start


@pytest.mark.parametrize("outage", [_freeze, _kill])
def test_a_chunk_computed_during_an_outage_of_the_api_server_is_committed_after_it(
    workspace: Workspace, outage: Callable[[psutil.Process, ControlPlane], Callable[[], None]]
) -> None:
    worker = workspace.worker()
    run = workspace.create_run(gates=[3])
    attempt = workspace.assign(run, workspace.holder())
    workspace.wait("gate", lambda: workspace.trace("waits"))
    server = BackgroundProcess("kube-apiserver", workspace.plane.home).find()
    assert server is not None
    end = outage(server, workspace.plane)
    try:
        workspace.open_gate(run, 3)
        workspace.wait("checkpoint", lambda: workspace.trace("persisted"))
        workspace.wait("a try to commit", lambda: "does not answer" in worker.words)
    finally:
        end()
    assert workspace.committed(run, attempt)["step"] == 4
    assert worker.popen.poll() is None
    assert len(workspace.trace("chunk")) == 1


def test_a_worker_that_cannot_renew_its_lease_stops_by_itself(workspace: Workspace) -> None:
    worker = workspace.worker(RAPIDFIRE_LEASE_SECONDS="3")
    server = BackgroundProcess("kube-apiserver", workspace.plane.home).find()
    assert server is not None
    server.suspend()
    try:
        assert worker.end(40) == os.EX_TEMPFAIL
    finally:
        server.resume()
    assert "the lease e-w-0 was not renewed for" in worker.words


def test_a_worker_whose_lease_another_took_stops(workspace: Workspace) -> None:
    worker = workspace.worker(RAPIDFIRE_LEASE_SECONDS="3")
    lease = workspace.lease()
    lease["spec"]["holderIdentity"] = "e-w-0-bbbbb/1"
    path = f"/apis/coordination.k8s.io/v1/namespaces/{workspace.namespace}/leases/e-w-0"
    assert workspace.admin.patch(path, json={"spec": lease["spec"]}, headers=MERGE).is_success
    assert worker.end() == os.EX_TEMPFAIL
    assert "e-w-0-bbbbb/1 holds the lease" in worker.words


def test_a_lease_that_somebody_deleted_is_taken_again(workspace: Workspace) -> None:
    worker = workspace.worker(RAPIDFIRE_LEASE_SECONDS="3")
    holder = workspace.holder()
    path = f"/apis/coordination.k8s.io/v1/namespaces/{workspace.namespace}/leases/e-w-0"
    assert workspace.admin.delete(path).is_success
    assert workspace.holder() == holder
    assert worker.terminate() == 0


def test_a_new_pod_of_the_slot_takes_the_lease_over(workspace: Workspace) -> None:
    first = workspace.worker("e-w-0-aaaaa")
    first.popen.kill()
    workspace.worker("e-w-0-bbbbb")
    owner = workspace.lease()["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Experiment", workspace.experiment["metadata"]["uid"])


def test_a_killed_worker_is_replaced_and_the_replay_logs_nothing_twice(workspace: Workspace) -> None:
    worker = workspace.worker()
    run = workspace.create_run(gates=[3])
    workspace.assign(run, workspace.holder())
    workspace.wait("two steps", lambda: workspace.log_path(run).exists() and len(workspace.metrics_log(run)) == 2)
    before = workspace.metrics_log(run)
    worker.popen.kill()
    worker.end()
    with workspace.log_path(run).open("a") as log:
        log.write('{"kind": "log", "sequ')  # torn by the kill
    dead = workspace.lease()["spec"]["holderIdentity"]
    workspace.open_gate(run, 3)
    workspace.worker()
    holder = workspace.wait("new holder", lambda: workspace.holder() if workspace.holder() != dead else "")
    attempt = workspace.assign(run, holder)
    assert workspace.committed(run, attempt)["step"] == 4
    lines = [_whole(line) for line in workspace.log_path(run).read_text().splitlines()]
    assert [line["sequence"] for line in lines if line] == [1, 2, 3, 4]
    assert [line for line in lines if line][:2] == before


def _whole(line: str) -> dict[str, Any] | None:
    try:
        parsed: dict[str, Any] = json.loads(line)
    except ValueError:
        return None
    return parsed


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"fails_at": 3}, "ValueError: the formatting function failed at step 3"),
        ({"exits_at": 3}, "SystemExit: user code exits"),
    ],
)
def test_an_exception_of_the_run_is_committed_as_its_error_and_the_worker_goes_on(
    workspace: Workspace, script: dict[str, int], words: str
) -> None:
    workspace.worker()
    failing, other = workspace.create_run(**script), workspace.create_run()
    attempt = workspace.assign(failing, workspace.holder())
    commit = workspace.committed(failing, attempt)
    assert (commit["error"]["reason"], commit["error"]["blame"]) == ("UnexpectedError", "Run")
    assert commit["error"]["message"].endswith(words)
    assert "checkpoint" not in commit
    assert commit["step"] == 2
    workspace.committed(other, workspace.assign(other, workspace.holder()))
    assert len(workspace.trace("evict")) == 1


def test_a_full_disk_commits_nothing_and_blames_nobody(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(persist_full=True)
    commit = workspace.committed(run, workspace.assign(run, workspace.holder()))
    assert (commit["error"]["reason"], commit["error"]["blame"]) == ("StorageFull", "Infrastructure")
    assert "enlarge the claim" in commit["error"]["message"]
    assert "checkpoint" not in commit


def test_memory_that_runs_out_fails_the_run_and_the_others_go_on(workspace: Workspace) -> None:
    worker = workspace.worker()
    run, other = workspace.create_run(no_memory_at=3), workspace.create_run()
    commit = workspace.committed(run, workspace.assign(run, workspace.holder()))
    assert (commit["error"]["reason"], commit["error"]["blame"]) == ("OutOfMemory", "Run")
    workspace.committed(other, workspace.assign(other, workspace.holder()))
    assert worker.popen.poll() is None


def test_a_checkpoint_that_finds_no_memory_is_written_with_nothing_else_in_it(workspace: Workspace) -> None:
    workspace.worker()
    other, run = workspace.create_run(), workspace.create_run(persist_no_memory=True)
    workspace.committed(other, workspace.assign(other, workspace.holder()))
    assert workspace.committed(run, workspace.assign(run, workspace.holder()))["checkpoint"]["step"] == 4
    assert len(workspace.trace("evict")) == 2
    assert workspace.committed(other, workspace.assign(other, workspace.holder(), chunk=1))["step"] == 8


def test_a_broken_device_ends_the_process(workspace: Workspace) -> None:
    worker = workspace.worker()
    run = workspace.create_run(breaks_at=3)
    workspace.assign(run, workspace.holder())
    assert worker.end() == 3
    assert not workspace.progress(run).get("final")


def test_numbers_that_are_not_finite_are_null_in_the_log_and_never_patched(workspace: Workspace) -> None:
    workspace.worker()
    run = workspace.create_run(nan_at=4)
    commit = workspace.committed(run, workspace.assign(run, workspace.holder()))
    assert "loss" not in commit
    assert "loss" not in commit["metrics"]
    assert workspace.metrics_log(run)[-1]["values"]["loss"] is None


def prometheus(worker: Process) -> str:
    return httpx.get(f"http://{worker.address}/metrics", trust_env=False).text


def test_prometheus_sees_steps_chunks_checkpoints_and_losses(workspace: Workspace) -> None:
    worker = workspace.worker()
    run = workspace.create_run()
    workspace.committed(run, workspace.assign(run, workspace.holder()))
    text = prometheus(worker)
    slot = 'experiment="e",worker="e-w-0"'
    for line in (
        f"rapidfire_worker_step_seconds_count{{{slot}}} 4.0",
        'rapidfire_worker_chunk_seconds_count{experiment="e",task="chunk",worker="e-w-0"} 1.0',
        f"rapidfire_worker_checkpoint_seconds_count{{{slot}}} 1.0",
        f'rapidfire_worker_loss{{experiment="e",run="{run}",worker="e-w-0"}} 2.0',
        f"rapidfire_worker_residents{{{slot}}} 1.0",
        f"rapidfire_worker_resident_bytes{{{slot}}} 1000.0",
        f"rapidfire_worker_memory_used_bytes{{{slot}}} 2000.0",
        f"rapidfire_worker_memory_budget_bytes{{{slot}}} 5000.0",
        f"rapidfire_worker_evictions_total{{{slot}}} 0.0",
        f"rapidfire_worker_assignments{{{slot}}} 1.0",
    ):
        assert line in text


def test_every_log_line_of_an_attempt_says_what_it_is_about(workspace: Workspace) -> None:
    worker = workspace.worker()
    run = workspace.create_run()
    attempt = workspace.assign(run, workspace.holder())
    workspace.committed(run, attempt)
    workspace.wait("line", lambda: '"event": "ended"' in worker.words)
    lines = [json.loads(line) for line in worker.words.splitlines()]
    about = {"experiment": "e", "worker": "e-w-0", "run": run, "chunk": 0, "attempt": attempt}
    for event in ("begun", "ended"):
        (line,) = [each for each in lines if each["event"] == event]
        assert about.items() <= line.items()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("RAPIDFIRE_EXPERIMENT", "", "RAPIDFIRE_EXPERIMENT: "),
        ("RAPIDFIRE_CLAIMS", "{", "RAPIDFIRE_CLAIMS: it must be JSON"),
        ("OMP_NUM_THREADS", "many", "OMP_NUM_THREADS: "),
    ],
)
def test_a_wrong_environment_is_refused_by_the_variables_name(
    workspace: Workspace, variable: str, value: str, words: str
) -> None:
    worker = workspace.launch(**{variable: value})
    assert worker.end() == 2
    assert words in worker.words


def test_an_experiment_that_does_not_exist_is_said_so(workspace: Workspace) -> None:
    worker: Process = workspace.launch(RAPIDFIRE_EXPERIMENT="nothing")
    assert worker.end() == 1
    assert "RAPIDFIRE_EXPERIMENT=nothing: no such Experiment" in worker.words
