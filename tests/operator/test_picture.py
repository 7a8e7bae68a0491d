"""What watches and lists bring, in whatever order, ends in the same picture."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from tests.operator.builders import experiment

from rapidfireai_operator.core.picture import Key, Picture

KEY = Key("n", "exp")


def body(version: int, uid: str = "e", **more: Any) -> dict[str, Any]:
    made = experiment("exp")
    meta = {"name": "exp", "namespace": "n", "uid": uid, "resourceVersion": str(version)}
    return {**made, "metadata": meta, **more}


def lease(version: int, holder: str, renewed: int, uid: str = "l") -> dict[str, Any]:
    labels = {"rapidfire.ai/experiment": "exp", "rapidfire.ai/worker": "exp-w-0"}
    meta = {"name": "exp-w-0", "namespace": "n", "uid": uid, "resourceVersion": str(version), "labels": labels}
    spec = {
        "holderIdentity": holder,
        "renewTime": f"2026-01-01T00:00:{renewed:02d}.000000Z",
        "leaseDurationSeconds": 30,
    }
    return {"metadata": meta, "spec": spec}


def version(picture: Picture) -> str | None:
    subject = picture.subject(KEY)
    return None if subject is None else subject.resource_version


@given(st.permutations([1, 2, 3, 10, 11]))
def test_the_newest_version_wins_in_whatever_order(order: list[int]) -> None:
    picture = Picture()
    for each in order:
        picture.fold("experiments", body(each), 0.0)
    assert version(picture) == "11"


def test_what_comes_late_does_not_raise_the_dead() -> None:
    picture = Picture()
    picture.fold("experiments", body(5), 0.0)
    assert picture.forget("experiments", body(6)) == KEY
    assert picture.fold("experiments", body(4), 0.0) is None
    assert version(picture) is None
    assert not picture.knows(KEY)


def test_a_new_object_of_an_old_name_takes_its_place_and_the_old_ones_end_does_not_touch_it() -> None:
    picture = Picture()
    picture.fold("experiments", body(5, "old"), 0.0)
    picture.fold("experiments", body(9, "new"), 0.0)
    assert picture.forget("experiments", body(7, "old")) is None
    assert version(picture) == "9"


def test_a_list_drops_what_it_lacks_unless_that_is_newer() -> None:
    picture = Picture()
    picture.fold("experiments", body(5), 0.0)
    assert picture.replace("experiments", "n", [], 4, 0.0) == set()
    assert picture.replace("experiments", "elsewhere", [], 9, 0.0) == set()
    assert picture.replace("experiments", "n", [], 6, 0.0) == {KEY}
    assert version(picture) is None


def test_a_heartbeat_is_judged_by_the_operators_clock_and_wakes_only_with_news() -> None:
    picture = Picture()
    picture.fold("experiments", body(1), 0.0)
    assert picture.fold("leases", lease(2, "p/a", 1), 100.0) == KEY
    assert picture.fold("leases", lease(3, "p/a", 11), 110.0) is None
    subject = picture.subject(KEY)
    assert subject is not None
    seen = picture.world(subject, 0.0, 115.0).slots["exp-w-0"].lease
    assert seen is not None
    assert seen.age == 5.0
    assert picture.fold("leases", lease(4, "p/b", 12), 116.0) == KEY
    assert picture.fold("leases", lease(5, "p/b", 59), 200.0) == KEY, "a worker that was late is back"


def test_objects_without_the_labels_concern_nobody() -> None:
    stranger = {"metadata": {"name": "x", "namespace": "n", "uid": "x", "resourceVersion": "1"}}
    picture = Picture()
    assert picture.fold("jobs", stranger, 0.0) is None
    assert picture.known() == []


def test_an_object_that_cannot_be_read_is_noted_and_harms_nobody() -> None:
    picture = Picture()
    picture.fold("experiments", body(1, status={"conditions": "nonsense"}), 0.0)
    run = {
        "metadata": {"name": "exp-r1", "namespace": "n", "uid": "r", "resourceVersion": "2"},
        "spec": {"experimentRef": "exp"},
    }
    picture.fold("runs", run, 0.0)
    assert [(kind, name) for kind, _, name, _ in picture.unreadable] == [("experiments", "exp"), ("runs", "exp-r1")]
    subject = picture.subject(KEY)
    assert subject is not None
    assert picture.world(subject, 0.0, 0.0).runs == ()
