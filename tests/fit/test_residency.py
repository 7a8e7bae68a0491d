"""Which sessions leave when memory runs short, whatever is held."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from rapidfireai_worker.fit.residency import Cost, Picture, Plan, Resident, Shared, make_room, need

UIDS = ("a", "b", "c", "d")
BASES = ("one", "two")


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    uids = draw(st.permutations(UIDS))[: draw(st.integers(0, len(UIDS)))]
    residents = tuple(Resident(uid, draw(st.integers(0, 9)), draw(st.booleans())) for uid in uids)
    stands_on = {uid: draw(st.sampled_from(BASES)) for uid in uids}
    bases = tuple(
        Shared(name, draw(st.integers(0, 30)), frozenset(uid for uid in uids if stands_on[uid] == name))
        for name in BASES
        if draw(st.booleans()) or name in stands_on.values()
    )
    floor = sum(each.bytes for each in residents) + sum(each.bytes for each in bases)
    used = floor + draw(st.integers(0, 20))
    return Picture(draw(st.integers(0, 120)), used, residents, bases)


needs = st.integers(0, 40)
runs = st.sampled_from([*UIDS, "e"])
names = st.sampled_from([*BASES, ""])


def left_by(plan: Plan, picture: Picture) -> int:
    """What is held once the plan is followed."""
    gone = sum(each.bytes for each in picture.residents if each.uid in plan.sessions)
    return picture.used - gone - sum(each.bytes for each in picture.bases if each.identity in plan.bases)


@given(pictures(), needs, runs, names)
def test_nothing_leaves_that_is_needed_next_or_still_being_written(
    picture: Picture, wanted: int, run: str, base: str
) -> None:
    plan = make_room(picture, wanted, run, base)
    assert run not in plan.sessions
    assert base not in plan.bases
    assert all(each.settled for each in picture.residents if each.uid in plan.sessions)
    users = {each.identity: each.users for each in picture.bases}
    assert all(users[identity] <= set(plan.sessions) for identity in plan.bases)


@given(pictures(), needs, runs, names)
def test_what_fits_moves_nobody_and_else_room_is_made_or_all_leave(
    picture: Picture, wanted: int, run: str, base: str
) -> None:
    plan = make_room(picture, wanted, run, base)
    if picture.used + wanted <= picture.budget:
        assert not plan
    elif left_by(plan, picture) + wanted > picture.budget:
        assert set(plan.sessions) == {each.uid for each in picture.residents if each.settled and each.uid != run}


@given(pictures(), needs, runs, names)
def test_the_least_recently_used_leave_first_and_no_more_than_need_be(
    picture: Picture, wanted: int, run: str, base: str
) -> None:
    plan = make_room(picture, wanted, run, base)
    movable = [each.uid for each in picture.residents if each.settled and each.uid != run]
    assert list(plan.sessions) == movable[: len(plan.sessions)]
    if plan.sessions:
        kept = {each.identity for each in picture.bases if each.users and each.users <= set(plan.sessions)}
        without_last = Plan(plan.sessions[:-1], tuple(name for name in plan.bases if name not in kept))
        users = {each.identity: each.users for each in picture.bases}
        before = tuple(name for name in plan.bases if users[name] <= set(plan.sessions[:-1]))
        assert left_by(replace(without_last, bases=before), picture) + wanted > picture.budget


def test_a_base_that_nobody_stands_on_leaves_before_any_session() -> None:
    picture = Picture(100, 100, (Resident("a", 5),), (Shared("old", 40), Shared("one", 50, frozenset("a"))))
    assert make_room(picture, 10, "b", "one") == Plan(bases=("old",))


def test_a_base_leaves_with_the_last_session_on_it() -> None:
    bases = (Shared("one", 40, frozenset("ab")), Shared("two", 40))
    picture = Picture(100, 100, (Resident("a", 5), Resident("b", 5), Resident("c", 5)), bases)
    assert make_room(picture, 20, "c", "two") == Plan(("a", "b"), ("one",))


def test_a_warm_run_needs_what_its_chunks_took_and_a_cold_one_its_building_too() -> None:
    cost = Cost(build=70, rest=30, step=50, base="one", base_bytes=400)
    assert need(cost, [], ["one"], warm=True) == 50
    assert need(cost, [], ["one"], warm=False) == 80
    assert need(replace(cost, build=90), [], ["one"], warm=False) == 90
    assert need(cost, [], ["two"], warm=False) == 480


def test_the_hungriest_run_stands_for_one_that_was_never_measured() -> None:
    assert need(Cost(rest=30), [Cost(step=10), Cost(step=60)], [], warm=False) == 90
    assert need(Cost(), [], [], warm=False) == 0
