"""Looks now and then whether the definitions in the cluster are as new as this operator."""

from __future__ import annotations

import asyncio

import structlog

from rapidfireai_operator.adapters.kubernetes import Api, ApiError
from rapidfireai_operator.adapters.metrics import Metrics
from rapidfireai_operator.core.definitions import missing_fields
from rapidfireai_operator.loops.experiments import Experiments

FIX = "Apply the CRDs of this version: kubectl apply --server-side -f crds/ (or the chart's value crds.install)."
_log = structlog.get_logger(__name__)


class Definitions:
    """The look at the definitions.

    Args:
        api: The API server.
        experiments: What is told of fields that are dropped.
        seconds: The period.
        metrics: Where their number is shown.
    """

    def __init__(self, api: Api, experiments: Experiments, seconds: float, metrics: Metrics) -> None:
        self._api, self._experiments = api, experiments
        self._seconds, self._metrics = seconds, metrics

    async def run(self) -> None:
        """Look for ever. What two looks found is told: an API server takes its time to publish what is new."""
        before: tuple[str, ...] = ()
        while True:
            try:
                missing = missing_fields(await self._api.description())
            except (ApiError, KeyError) as problem:  # not published yet, say
                _log.info("the definitions are looked at again", error=str(problem), seconds=self._seconds)
            else:
                self._tell(tuple(each for each in missing if each in before))
                before = missing
            await asyncio.sleep(self._seconds)

    def _tell(self, missing: tuple[str, ...]) -> None:
        self._metrics.dropped_fields.set(len(missing))
        if not self._experiments.learn(outdated(missing) if missing else ""):
            return
        if missing:
            _log.warning("the definitions are older than this operator", dropped=list(missing), fix=FIX)
        else:
            _log.info("the definitions are as new as this operator by now")


def outdated(missing: tuple[str, ...]) -> str:
    """Return what to say of fields that are dropped."""
    named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
    return f"The CustomResourceDefinitions in the cluster are older than the operator and drop {named}. {FIX}"
