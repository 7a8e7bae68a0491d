"""Log lines as MLflow's metrics, and the one request that sends them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from rapidfireai_worker.runlog import LogLine

if TYPE_CHECKING:
    from mlflow import MlflowClient

_REQUEST_SECONDS = 10
_BATCH = 1000
"""How many metrics MLflow takes at a time."""
_KEY_CHARACTERS = 250
_REFUSALS = {400, 404}


class MlflowRefused(Exception):  # noqa: N818 - it is an answer
    """MLflow does not take these metrics, for instance because somebody deleted the run there."""


class MlflowUnavailable(Exception):  # noqa: N818 - it passes
    """MLflow did not answer."""


def key_of(name: str) -> str:
    """Return the name under which MLflow takes a metric: it knows letters, digits and a few signs."""
    plain = re.sub(r"[^\w.\- /]", "_", name.replace("@", "_at_"), flags=re.ASCII)
    parts = [part for part in plain.split("/") if part not in {"", ".", ".."}]
    return "/".join(parts)[:_KEY_CHARACTERS] or "_"


def step_of(line: LogLine, rows: int | None) -> int:
    """Return MLflow's step of a line: of a shard the percent of the rows that are answered, else the line's own."""
    return 100 * line.step // rows if line.kind == "shard" and rows else line.step


def values_of(lines: Iterable[LogLine], rows: int | None = None) -> list[tuple[str, float, int, int]]:
    """Return (key, value, milliseconds since the epoch, step) of every finite number in `lines`.

    Args:
        lines: What was logged.
        rows: How many rows an evaluation answers.
    """
    return [
        (key_of(name), value, round(line.time * 1000), step_of(line, rows))
        for line in lines
        for name, value in line.values.items()
        if value is not None
    ]


class Mlflow:
    """One MLflow server. Its client is imported at the first use: it is large.

    Args:
        url: The server.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def log(self, run: str, lines: Sequence[LogLine], rows: int | None = None) -> None:
        """Send every number of `lines`; it blocks.

        Args:
            run: MLflow's ID of the run.
            lines: What was logged; sending them again changes nothing.
            rows: How many rows an evaluation answers.

        Raises:
            MlflowRefused: If MLflow does not take them.
            MlflowUnavailable: If it does not answer.
        """
        from mlflow.entities import Metric  # noqa: PLC0415
        from mlflow.exceptions import MlflowException, RestException  # noqa: PLC0415

        metrics = [Metric(*value) for value in values_of(lines, rows)]
        for start in range(0, len(metrics), _BATCH):
            try:
                self._client.log_batch(run, metrics=metrics[start : start + _BATCH])
            except RestException as error:
                if error.get_http_status_code() in _REFUSALS:
                    raise MlflowRefused(str(error)) from error
                raise MlflowUnavailable(str(error)) from error
            except MlflowException as error:
                raise MlflowUnavailable(str(error)) from error

    @cached_property
    def _client(self) -> MlflowClient:
        # Tries again are the feed's own, so that one slow request does not hold up the rest for minutes.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(_REQUEST_SECONDS))
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        from mlflow import MlflowClient  # noqa: PLC0415

        return MlflowClient(tracking_uri=self._url)
