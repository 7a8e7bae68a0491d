"""The MLflow server: experiments and runs, each found again by its tag before another one is made."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from rapidfireai_operator.core.tracking import UID_TAG, MlflowState, TrackedExperiment, TrackedRun

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REQUEST_SECONDS = 10
_PAGE = 1000
_PARAMS_AT_ONCE = 100


class MlflowError(Exception):
    """MLflow did not answer, or refused a request."""


class MlflowRefusedError(MlflowError):
    """MLflow refuses this request, for instance because somebody deleted the run there."""


@dataclass(frozen=True, slots=True)
class KnownRun:
    """A run that MLflow has."""

    id: str
    state: str
    has_params: bool


class Mlflow:
    """One MLflow server. Every method blocks; its client is imported at the first use: it is large.

    Args:
        url: The server.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def ensure_experiment(self, wanted: TrackedExperiment) -> str:
        """Return the ID of an experiment, made if it is not there.

        Raises:
            MlflowError: If MLflow refuses or does not answer.
        """
        with _translated():
            found = self._client.search_experiments(filter_string=f"tags.`{UID_TAG}` = '{wanted.uid}'", max_results=1)
            if found:
                return str(found[0].experiment_id)
            taken = self._client.get_experiment_by_name(wanted.name) is not None
            name = wanted.other_name if taken else wanted.name
            return str(self._client.create_experiment(name, tags=dict(wanted.tags)))

    def runs(self, experiment: str) -> dict[str, KnownRun]:
        """Return the runs of an experiment by the UID of the resource.

        Raises:
            MlflowError: If MLflow refuses or does not answer.
        """
        known: dict[str, KnownRun] = {}
        token: str | None = None
        with _translated():
            while True:
                page = self._client.search_runs([experiment], max_results=_PAGE, page_token=token)
                for run in page:
                    uid = run.data.tags.get(UID_TAG)
                    if uid is not None:
                        known[uid] = KnownRun(run.info.run_id, run.info.status, bool(run.data.params))
                token = page.token
                if not token:
                    return known

    def create_run(self, experiment: str, run: TrackedRun) -> str:
        """Make a run; its parameters follow with `log_params`.

        Raises:
            MlflowError: If MLflow refuses or does not answer.
        """
        with _translated():
            made = self._client.create_run(experiment, tags=dict(run.tags), run_name=run.name)
            return str(made.info.run_id)

    def log_params(self, run_id: str, run: TrackedRun) -> None:
        """Write a run's parameters; writing them again changes nothing.

        Raises:
            MlflowError: If MLflow refuses or does not answer.
        """
        from mlflow.entities import Param  # noqa: PLC0415

        params = [Param(key, value) for key, value in run.params.items()]
        with _translated():
            for start in range(0, len(params), _PARAMS_AT_ONCE):
                self._client.log_batch(run_id, params=params[start : start + _PARAMS_AT_ONCE])

    def set_state(self, run_id: str, state: MlflowState) -> None:
        """Write that a run goes on or how it ended.

        Raises:
            MlflowError: If MLflow refuses or does not answer.
        """
        with _translated():
            if state == "RUNNING":
                self._client.update_run(run_id, status=state)
            else:
                self._client.set_terminated(run_id, status=state)

    def delete_run(self, run_id: str) -> None:
        """Hide a run; MLflow keeps it among the deleted ones, from where people can restore it.

        Raises:
            MlflowError: If MLflow refuses or does not answer.
        """
        with _translated():
            self._client.delete_run(run_id)

    @cached_property
    def _client(self) -> MlflowClient:
        # Tries again are the caller's own, so that one slow request does not hold up the rest for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_REQUEST_SECONDS))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        from mlflow import MlflowClient  # noqa: PLC0415

        return MlflowClient(tracking_uri=self._url)


@contextmanager
def _translated() -> Iterator[None]:
    """Raise whatever MLflow's client raises as one kind of error."""
    from mlflow.exceptions import MlflowException, RestException  # noqa: PLC0415

    try:
        yield
    except RestException as error:
        refused = 400 <= error.get_http_status_code() < 500
        raise (MlflowRefusedError if refused else MlflowError)(str(error)) from error
    except (MlflowException, OSError) as error:  # requests' errors are OSErrors
        raise MlflowError(str(error)) from error
