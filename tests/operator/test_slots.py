"""Which worker slots there should be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_operator.core.slots import STUCK_SECONDS, number, plan_slots
from rapidfireai_operator.core.snapshot import JobView

NOW = 1000.0


def job(slot: int, *, leaving_since: float | None = None, ended: str = "", template: str = "t") -> JobView:
    return JobView(f"exp-w-{slot}", f"uid-{slot}", "owner", template, leaving_since, ended)


jobs = st.dictionaries(
    st.integers(0, 9),
    st.tuples(
        st.none() | st.sampled_from([NOW - 1, NOW - STUCK_SECONDS - 1]), st.sampled_from(["", "Failed", "Complete"])
    ),
).map(lambda found: {f"exp-w-{n}": job(n, leaving_since=left, ended=end) for n, (left, end) in found.items()})


@given(jobs, st.integers(0, 12), st.sets(st.integers(0, 9).map(lambda n: f"exp-w-{n}")))
def test_the_wanted_number_of_slots_is_there_or_on_its_way(
    present: dict[str, JobView], wanted: int, busy: set[str]
) -> None:
    plan = plan_slots("exp", wanted, present, busy, {}, NOW)
    assert len(plan.names) == wanted
    assert set(plan.make) <= set(plan.names)
    assert not set(plan.make) & set(present)
    standing = {name for name, each in present.items() if not each.leaving and not each.ended}
    assert standing - set(plan.remove) <= set(plan.names)
    surplus = standing & set(plan.remove)
    kept = standing - surplus
    assert not (surplus & busy and kept - busy), "idle workers leave first"


def test_slots_are_made_from_zero_and_used_again() -> None:
    assert plan_slots("exp", 3, {}, (), {}, NOW).make == ("exp-w-0", "exp-w-1", "exp-w-2")
    present = {"exp-w-1": job(1)}
    assert plan_slots("exp", 2, present, (), {}, NOW).make == ("exp-w-0",)


def test_a_failed_job_is_removed_and_its_slot_comes_back() -> None:
    plan = plan_slots("exp", 1, {"exp-w-0": job(0, ended="Failed")}, (), {}, NOW)
    assert (plan.names, plan.make, plan.remove) == (("exp-w-0",), (), ("exp-w-0",))


def test_a_job_that_cannot_go_is_replaced_by_another_slot() -> None:
    stuck = {"exp-w-0": job(0, leaving_since=NOW - STUCK_SECONDS - 1)}
    assert plan_slots("exp", 1, stuck, (), {}, NOW).make == ("exp-w-1",)


NEW = {f"exp-w-{slot}": "new" for slot in range(10)}


def test_an_outdated_busy_worker_finishes_first() -> None:
    present = {"exp-w-0": job(0), "exp-w-1": job(1, template="new")}
    plan = plan_slots("exp", 2, present, set(present), NEW, NOW, ready=set(present))
    assert plan.remove == ()
    assert plan.retire == {"exp-w-0"}


def test_outdated_workers_are_replaced_one_at_a_time() -> None:
    present = {f"exp-w-{slot}": job(slot) for slot in range(3)}
    plan = plan_slots("exp", 3, present, {"exp-w-0"}, NEW, NOW, ready=set(present))
    assert (plan.remove, plan.retire) == (("exp-w-1",), {"exp-w-1"}), "an idle one first"
    leaving = {**present, "exp-w-1": job(1, leaving_since=NOW - 1)}
    assert not plan_slots("exp", 3, leaving, (), NEW, NOW, ready={"exp-w-0", "exp-w-2"}).retire
    starting = {**present, "exp-w-1": job(1, template="new")}
    assert not plan_slots("exp", 3, starting, (), NEW, NOW, ready={"exp-w-0", "exp-w-2"}).retire
    plan = plan_slots("exp", 3, starting, {"exp-w-0"}, NEW, NOW, ready=set(present))
    assert plan.remove == ("exp-w-2",)


def test_outdated_workers_that_do_nothing_are_replaced_at_once() -> None:
    present = {"exp-w-0": job(0), "exp-w-1": job(1), "exp-w-2": job(2)}
    plan = plan_slots("exp", 3, present, {"exp-w-2"}, NEW, NOW, ready={"exp-w-2"})
    assert plan.remove == ("exp-w-0", "exp-w-1"), "an image that cannot be pulled is corrected in one go"
    assert "exp-w-2" not in plan.retire


@given(jobs, st.integers(0, 12), st.sets(st.integers(0, 9).map(lambda n: f"exp-w-{n}")))
def test_an_upgrade_takes_away_one_working_slot_at_most(
    present: dict[str, JobView], wanted: int, ready: set[str]
) -> None:
    plan = plan_slots("exp", wanted, present, (), NEW, NOW, ready)
    standing = {name for name, each in present.items() if not each.leaving and not each.ended}
    assert len(set(plan.remove) & standing & set(plan.names) & ready) <= 1


def test_a_job_that_waits_for_its_queue_leaves_before_one_that_works() -> None:
    present = {"exp-w-0": JobView("exp-w-0", "u", "owner", "t", suspended=True, queue="q"), "exp-w-1": job(1)}
    assert plan_slots("exp", 1, present, (), {}, NOW).remove == ("exp-w-0",)


def test_names_that_are_no_slots_come_last() -> None:
    assert number("exp-w-12") == 12
    assert number("exp") > 200
