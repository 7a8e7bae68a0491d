"""What those get who read slowly."""

from __future__ import annotations

from typing import Any

from rapidfireai_gateway.feed import Change, Subscription


class Snapshots:
    """A feed as far as a subscription knows it."""

    def __init__(self) -> None:
        self.left = False

    def snapshot(self) -> Change:
        return Change("snapshot", {})


def change(name: str, version: int) -> tuple[Any, Change]:
    return ("runs", name), Change("run", {"metadata": {"name": name, "resourceVersion": str(version)}})


async def test_who_reads_slowly_gets_the_latest_of_each_object() -> None:
    subscription = Subscription(Snapshots())  # type: ignore[arg-type]
    changes = subscription.changes()
    assert (await anext(changes)).event == "snapshot"
    for version in range(1000):
        for name in ("a", "b"):
            subscription.put(*change(name, version))
    got = [(await anext(changes)).data["metadata"] for _ in range(2)]
    assert [each["resourceVersion"] for each in got] == ["999", "999"]
    subscription.put(*change("c", 0))
    assert (await anext(changes)).data["metadata"]["name"] == "c"


async def test_what_happens_before_the_snapshot_is_in_it() -> None:
    subscription = Subscription(Snapshots())  # type: ignore[arg-type]
    subscription.put(*change("a", 1))
    changes = subscription.changes()
    assert (await anext(changes)).event == "snapshot"
    subscription.put(*change("b", 1))
    assert (await anext(changes)).data["metadata"]["name"] == "b"


async def test_an_error_that_is_final_ends_it() -> None:
    subscription = Subscription(Snapshots())  # type: ignore[arg-type]
    changes = subscription.changes()
    await anext(changes)
    subscription.trouble(Change("error", {"detail": "expired", "status": 401, "final": True}))
    assert [each.event async for each in changes] == ["error"]
