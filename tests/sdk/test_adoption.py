"""What becomes of the directories of a lost cluster: which are meant, how each run goes on, what cannot be had back."""

from __future__ import annotations

from typing import Any

import pytest
from tests.operator.builders import experiment

from rapidfireai import adoption
from rapidfireai.adoption import chosen, needs_of, orphans, planned, prospect_of
from rapidfireai.api import Experiment, ExperimentSpec
from rapidfireai.api.run import Checkpoint
from rapidfireai.errors import ExperimentError
from rapidfireai.expand import expand
from rapidfireai.remains import ExperimentRemains, RunRemains

OLD, OTHER = "0a0a0a0a-0000-4000-8000-000000000001", "0a0a0a0a-0000-4000-8000-000000000002"
PREPARED = {"totalSteps": 16, "boundaries": [4, 8, 12, 16]}
SPEC = experiment(runs=3)["spec"]
LEAVES = expand(ExperimentSpec.model_validate(SPEC).configs, 100)


def uid(index: int) -> str:
    return f"0b0b0b0b-0000-4000-8000-{index:012d}"


def commit(index: int, step: int, attempt: int = 3) -> Checkpoint:
    path = f"experiments/{OLD}/runs/{uid(index)}/checkpoints/{step}-{attempt}"
    return Checkpoint(path=path, digest="c" * 64, step=step)


def run(index: int, step: int = 8, config: Any = None, desired: str = "Running", **status: Any) -> RunRemains:
    leaf = LEAVES[index - 1] if config is None else config
    spec = {"experimentRef": "exp", "index": index, "config": leaf, "desiredState": desired}
    curve = [{"chunk": i, "step": end, "value": 2.0 - i} for i, end in enumerate(PREPARED["boundaries"])]
    known = {"attempt": 5, "state": "Running", "prepared": PREPARED, "objective": curve, **status}
    record = {"format": 1, "metadata": {"name": f"exp-r{index}"}, "spec": spec, "status": known}
    return RunRemains(uid=uid(index), record=record, checkpoint=commit(index, step) if step else None, attempt=5)


def remains(**more: Any) -> ExperimentRemains:
    record = {"format": 1, "metadata": {"name": "exp"}, "spec": SPEC, "status": {"nextIndex": 4}}
    return ExperimentRemains(**{"uid": OLD, "name": "exp", "record": record, **more})


def entries(*runs: RunRemains, **more: Any) -> dict[int, dict[str, Any]]:
    plan = planned(remains(**more), runs, "exp")
    ExperimentSpec.model_validate(plan.spec)  # the API server's schema is made of it
    return {each["index"]: each for each in plan.spec["adopted"]["runs"]}


def test_only_what_no_experiment_of_the_cluster_has_is_an_orphan() -> None:
    alive = Experiment(metadata={"uid": OTHER}, spec=SPEC)
    adopted = Experiment(metadata={"uid": uid(9)}, spec={**SPEC, "adopted": {"uid": OLD}})
    third = remains(uid=uid(1))
    assert orphans([remains(), remains(uid=OTHER), third], [alive, adopted]) == [third]


def test_a_name_that_two_directories_have_asks_for_the_uid() -> None:
    both = [remains(), remains(uid=OTHER)]
    with pytest.raises(ExperimentError, match=f"2 directories are of that name; give a UID: {OLD}, {OTHER}"):
        chosen(both, ["exp"])
    assert chosen(both, [OTHER]) == [both[1]]
    with pytest.raises(ExperimentError, match="nothing on the volume waits to be adopted by that name"):
        chosen(both, ["exq"])


def test_what_was_deleted_is_adopted_only_if_it_is_named() -> None:
    deleted = remains(uid=OTHER, name="gone", deleted_at=5.0)
    assert chosen([remains(), deleted], []) == [remains()]
    assert chosen([remains(), deleted], ["gone"]) == [deleted]


@pytest.mark.parametrize(
    ("found", "state", "fate"),
    [
        (run(1, 8), None, "goes on from step 8"),
        (run(1, 0), None, "begins anew"),
        (run(1, 8, desired="Stopped", state="Stopped"), None, "stays stopped"),
        (run(1, 16, state="Succeeded"), "Succeeded", "stays succeeded"),
        (run(1, 12, state="Succeeded"), None, "goes on from step 12"),
        (run(1, 16), "Succeeded", "stays succeeded"),
        (run(1, 16, desired="Stopped", state="Stopped"), "Succeeded", "stays succeeded"),
        (run(1, 8, state="Failed"), "Failed", "stays failed"),
        (run(1, 8, desired="Deleted", state="Deleted"), "Deleted", "stays deleted"),
    ],
)
def test_what_had_ended_stays_so_and_the_rest_goes_on(found: RunRemains, state: str | None, fate: str) -> None:
    prospect = prospect_of(OLD, found, LEAVES)
    assert (prospect.entry.adopted.state, prospect.fate) == (state, fate)
    assert prospect.entry.desired_state == found.record["spec"]["desiredState"]
    assert prospect.entry.adopted.attempt == 5


def test_the_curve_ends_at_the_commit_that_is_whole() -> None:
    curve = prospect_of(OLD, run(1, 8), LEAVES).entry.adopted.objective
    assert [point.step for point in curve] == [4, 8]


def test_a_config_is_written_only_where_the_configs_do_not_make_it() -> None:
    clone = {**LEAVES[0], "training_args": {"learning_rate": 0.5, "weight_decay": None}}
    found = entries(run(1), run(4, config=clone))
    assert "config" not in found[1]
    assert found[4]["config"] == clone


def test_a_number_that_was_used_is_never_used_again() -> None:
    plan = planned(remains(), [run(1), run(3)], "other")
    assert (plan.name, plan.spec["adopted"]["nextIndex"]) == ("other", 4)
    assert [each.entry.index for each in plan.runs] == [1, 3]
    later = planned(remains(), [run(1), run(7, config={})], "exp")
    assert later.spec["adopted"]["nextIndex"] == 8


def test_what_it_was_adopted_with_itself_is_forgotten() -> None:
    record = {"metadata": {"name": "exp"}, "spec": {**SPEC, "adopted": {"uid": OTHER}}, "status": {}}
    plan = planned(remains(record=record), [run(1)], "exp")
    assert plan.spec["adopted"]["uid"] == OLD


def test_a_run_without_a_record_is_named_and_passed_over() -> None:
    broken = RunRemains(uid=uid(2), problem="run.json cannot be read: it ends in the middle")
    strange = RunRemains(uid=uid(3), record={"metadata": {}, "spec": {"index": "three"}})
    plan = planned(remains(), [run(1), broken, strange], "exp")
    assert [each.entry.index for each in plan.runs] == [1]
    assert plan.lost[uid(2)] == f"runs/{uid(2)}: run.json cannot be read: it ends in the middle"
    assert "cannot be understood" in plan.lost[uid(3)]
    with pytest.raises(ExperimentError, match="no run of it can be made again"):
        planned(remains(), [broken], "exp")


def test_a_spec_that_the_volume_does_not_have_can_be_given() -> None:
    found = remains(record=None, problem="experiment.json is not there")
    with pytest.raises(ExperimentError, match=r"exp: experiment\.json is not there"):
        planned(found, [run(1)], "exp")
    plan = planned(found, [run(1)], "exp", SPEC)
    assert plan.spec["configs"] == SPEC["configs"]
    with pytest.raises(ExperimentError, match="its spec is none that this version knows"):
        planned(found, [run(1)], "exp", {"configs": 7})


def test_a_directory_of_which_no_name_is_known_asks_for_one() -> None:
    with pytest.raises(ExperimentError, match=f"--experiment {OLD} --as NAME"):
        planned(remains(name=""), [run(1)], "")


def test_long_curves_give_way_before_runs_do(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [run(index, 16, config={"n": index}) for index in range(4, 24)]
    whole = planned(remains(), runs, "exp")
    monkeypatch.setattr(adoption, "MOST_BYTES", len(str(whole.spec)) - 200)
    light = planned(remains(), runs, "exp")
    steps = [[point["step"] for point in each["adopted"]["objective"]] for each in light.spec["adopted"]["runs"]]
    assert steps == [[4, 16]] * 20
    monkeypatch.setattr(adoption, "MOST_BYTES", 2000)
    with pytest.raises(ExperimentError, match="more than one Experiment has room for"):
        planned(remains(), runs, "exp")


def test_what_must_be_made_again_is_named_and_no_value_of_it() -> None:
    secret = {"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    plain = {"name": "PLAIN", "value": "1"}
    settings = {"name": "SET", "valueFrom": {"configMapKeyRef": {"name": "team", "key": "set"}}}
    pod = {"containers": [{"env": [secret, plain, settings]}], "imagePullSecrets": [{"name": "registry"}]}
    spec = {**SPEC, "workers": {"template": {"spec": pod}}, "code": {"configMap": {"name": "functions"}}}
    assert list(needs_of(ExperimentSpec.model_validate(spec))) == [
        "ConfigMap functions, key code.py: the same source as before",
        "Secret registry: pulls the image",
        "Secret hub, key token: variable HF_TOKEN of workers",
        "ConfigMap team, key set: variable SET of workers",
    ]
