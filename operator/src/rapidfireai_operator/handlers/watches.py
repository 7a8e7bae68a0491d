"""What the watches bring is folded into the picture; whoever it concerns is woken."""

from __future__ import annotations

from typing import Any, cast

import kopf

from rapidfireai.api.base import GROUP, VERSION
from rapidfireai_operator.core.picture import Kind
from rapidfireai_operator.operator import Operator


def _watch(kind: Kind, group: str, version: str) -> None:
    """Register the handler of one kind."""

    async def changed(memo: kopf.Memo, event: kopf.RawEvent, **_: Any) -> None:
        """Fold the change into the picture and wake the experiment."""
        operator = cast(Operator, memo.operator)
        operator.take_up(kind, cast(dict[str, Any], event["object"]), gone=event["type"] == "DELETED")

    kopf.on.event(group, version, kind, id=f"watch-{kind}")(changed)


_watch("experiments", GROUP, VERSION)
_watch("runs", GROUP, VERSION)
_watch("icops", GROUP, VERSION)
_watch("jobs", "batch", "v1")
_watch("pods", "", "v1")
_watch("leases", "coordination.k8s.io", "v1")
