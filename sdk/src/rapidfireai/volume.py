"""The client of the volume service: what users send and fetch goes through it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import httpx
import tenacity

from rapidfireai.api.run import Checkpoint
from rapidfireai.errors import VolumeError
from rapidfireai.remains import ExperimentRemains, RunRemains

Kind = Literal["bundles", "datasets"]
Sent = Callable[[int, int], None]
"""Told how many bytes of how many were sent."""
CURSOR_HEADER = "Rapidfire-Cursor"
OFFSET_HEADER = "Upload-Offset"
_BLOCK = 1 << 20
_RETRY_SECONDS = 30.0
_REQUEST_SECONDS, _CONNECT_SECONDS = 60.0, 5.0
_READING_SECONDS = 1800.0
"""How long the service may take to read a commit: all weights and the optimizer of a large model, from a slow disk."""
_STATUS_WORDS = {
    401: "it does not know your token; ask for a new one",
    403: "you may not do this; ask to be bound to the workspace's Role rapidfire-user",
}


@dataclass(frozen=True, slots=True)
class MetricLine:
    """One line of a run's log.

    Attributes:
        kind: `log` is what the trainer logged, `boundary` the evaluation at a chunk's end, `shard` what an evaluation
            has estimated after a shard.
        sequence: Its number among the lines of its kind.
        step: The optimizer step, or how many rows were answered.
        time: When, in seconds since the epoch.
        values: The metrics; None where a value was not finite.
    """

    kind: str
    sequence: int
    step: int
    time: float
    values: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Shard:
    """One committed shard of a run.

    Attributes:
        path: Its directory, relative to the volume.
        rows: How many rows are answered with it.
        digest: The sha256 of its manifest.
    """

    path: str
    rows: int
    digest: str


class VolumeClient:
    """Talks to one workspace's volume service.

    Args:
        url: Its address.
        token: Returns a bearer token; asked again for every request, because tokens expire.
    """

    def __init__(self, url: str, token: Callable[[], str]) -> None:
        self.url = url.rstrip("/")
        self._token = token
        host = urlsplit(url).hostname or ""
        # A proxy of the user's environment leads nowhere near this machine's own addresses.
        trust_env = not (host == "localhost" or host.startswith("127."))
        self._client = httpx.Client(
            timeout=httpx.Timeout(_REQUEST_SECONDS, connect=_CONNECT_SECONDS), trust_env=trust_env
        )

    def close(self) -> None:
        """Close its connections."""
        self._client.close()

    def has(self, kind: Kind, digest: str) -> bool:
        """Return whether the volume holds it already."""
        return self._offset(f"/v1/{kind}/{digest}") is None

    def put(self, kind: Kind, digest: str, source: Path | bytes, sent: Sent = lambda done, total: None) -> None:
        """Send a file, unless the volume holds it already. What broke off earlier goes on where it stopped.

        Args:
            kind: What it is.
            digest: Its sha256.
            source: The file, or its content.
            sent: Told about progress.

        Raises:
            VolumeError: If it is refused or the service cannot be reached.
        """
        total = len(source) if isinstance(source, bytes) else source.stat().st_size
        path, patience = f"/v1/{kind}/{digest}", _Patience()
        try:
            for attempt in patience.attempts():
                with attempt:
                    offset = self._offset(path)
                    if offset is not None:
                        patience.reached(offset)
                        self._send(path, source, offset if offset <= total else 0, total, sent)
        except httpx.TransportError as error:
            raise VolumeError(_unreachable(self.url, error)) from error

    def _offset(self, path: str) -> int | None:
        """Return how many bytes of an upload the service has, or None if it has all."""
        answer = self._ask("HEAD", path, allowed=(404,))
        whole = answer.status_code != httpx.codes.NOT_FOUND
        return None if whole else int(answer.headers.get(OFFSET_HEADER, 0))

    def _send(self, path: str, source: Path | bytes, offset: int, total: int, sent: Sent) -> None:
        """Send what is behind `offset`.

        Raises:
            httpx.TransportError: If it breaks off, or what is there is not what was sent earlier: to be tried again.
        """
        headers = {"Content-Length": str(total - offset), "Content-Type": "application/octet-stream"}
        answer = self._client.put(
            self.url + path,
            content=_blocks(source, offset, total, sent),
            headers={**self._headers(), **headers, OFFSET_HEADER: str(offset)},
        )
        stale = answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY and offset > 0
        if stale or answer.status_code == httpx.codes.CONFLICT:
            raise httpx.RemoteProtocolError(_refusal(answer, f"PUT {path}"))
        if answer.is_error:
            raise VolumeError(_refusal(answer, f"PUT {path}"))

    def metrics(self, experiment_uid: str, run_uid: str) -> list[MetricLine]:
        """Return every line of a run's log.

        Raises:
            VolumeError: If the service refuses or cannot be reached.
        """
        return self.metrics_after(experiment_uid, run_uid, "")[0]

    def metrics_after(self, experiment_uid: str, run_uid: str, cursor: str) -> tuple[list[MetricLine], str]:
        """Return the lines of a run's log behind a cursor, and the cursor behind them.

        Args:
            experiment_uid: The experiment.
            run_uid: The run.
            cursor: What an earlier call returned; empty for all lines.

        Raises:
            VolumeError: If the service refuses or cannot be reached.
        """
        lines: list[MetricLine] = []
        path = f"/v1/experiments/{experiment_uid}/runs/{run_uid}/metrics"
        while True:
            answer = self._ask("GET", f"{path}?after={cursor}" if cursor else path, allowed=(404,))
            if answer.status_code == httpx.codes.NOT_FOUND:
                return lines, cursor
            new = [MetricLine(**json.loads(line)) for line in answer.text.splitlines() if line]
            lines += new
            cursor = answer.headers.get(CURSOR_HEADER, "")
            if not new or not cursor:
                return lines, cursor

    def checkpoints(self, experiment_uid: str, run_uid: str) -> list[Checkpoint]:
        """Return the checkpoints of a run that are on the volume, oldest first; the newest may not be committed yet.

        Raises:
            VolumeError: If the service refuses or cannot be reached.
        """
        answer = self._ask("GET", f"/v1/experiments/{experiment_uid}/runs/{run_uid}/checkpoints")
        return [Checkpoint.model_validate(each) for each in answer.json()["checkpoints"]]

    def remains(self) -> list[ExperimentRemains]:
        """Return the directories of all experiments, whether they are in the cluster or not.

        Raises:
            VolumeError: If the service refuses or cannot be reached.
        """
        found = self._ask("GET", "/v1/experiments").json()["experiments"]
        return [ExperimentRemains.model_validate(each) for each in found]

    def experiment_remains(self, uid: str) -> ExperimentRemains:
        """Return the directory of an experiment with its record. Raises as `remains`."""
        return ExperimentRemains.model_validate(self._ask("GET", f"/v1/experiments/{uid}").json())

    def run_remains(self, experiment_uid: str, run_uid: str) -> RunRemains:
        """Return the directory of a run; the service reads every file of its last commit. Raises as `remains`."""
        path = f"/v1/experiments/{experiment_uid}/runs/{run_uid}"
        return RunRemains.model_validate(self._ask("GET", path, seconds=_READING_SECONDS).json())

    def shards(self, experiment_uid: str, run_uid: str) -> list[Shard]:
        """Return the committed shards of a run, oldest first.

        Raises:
            VolumeError: If the service refuses or cannot be reached.
        """
        answer = self._ask("GET", f"/v1/experiments/{experiment_uid}/runs/{run_uid}/shards")
        return [Shard(each["path"], each["rows"], each["digest"]) for each in answer.json()["shards"]]

    def shard_file(self, shard: Shard, name: str) -> bytes:
        """Return a file of a shard.

        Args:
            shard: The shard.
            name: What its manifest names, such as `rows.parquet`.

        Raises:
            VolumeError: If the service refuses or cannot be reached.
        """
        return self._ask("GET", f"/v1/{quote(f'{shard.path}/{name}')}").content

    def shard_json(self, shard: Shard, name: str) -> dict[str, Any]:
        """Return a JSON file of a shard.

        Raises:
            VolumeError: As `shard_file`.
        """
        found: dict[str, Any] = json.loads(self.shard_file(shard, name))
        return found

    def file(self, checkpoint: str, name: str, offset: int = 0) -> Streamed:
        """Open a file of a checkpoint, to be read as it comes.

        Args:
            checkpoint: The checkpoint's path.
            name: `manifest.json`, or what that names below `model/`.
            offset: The first byte that is wanted.
        """
        headers = {**self._headers(), **({"Range": f"bytes={offset}-"} if offset else {})}
        return Streamed(self._client, f"{self.url}/v1/{quote(f'{checkpoint}/{name}')}", headers)

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self._token()}"}

    def _ask(
        self,
        method: str,
        path: str,
        *,
        allowed: tuple[int, ...] = (),
        seconds: float = _REQUEST_SECONDS,
    ) -> httpx.Response:
        def once() -> httpx.Response:
            timeout = httpx.Timeout(seconds, connect=_CONNECT_SECONDS)
            answer = self._client.request(method, self.url + path, headers=self._headers(), timeout=timeout)
            if answer.is_error and answer.status_code not in allowed:
                raise VolumeError(_refusal(answer, f"{method} {path}"))
            return answer

        return self._patiently(once)

    def _patiently(self, once: Callable[[], httpx.Response]) -> httpx.Response:
        """Try again while the service restarts."""
        try:
            for attempt in _Patience().attempts():
                with attempt:
                    return once()
        except httpx.TransportError as error:
            raise VolumeError(_unreachable(self.url, error)) from error
        raise AssertionError("tenacity returns or raises")


class _Patience:
    """Tries again while the service does not answer, until half a minute has passed in which nothing moved."""

    def __init__(self) -> None:
        self._until = time.monotonic() + _RETRY_SECONDS
        self._furthest = 0

    def reached(self, done: int) -> None:
        """Begin the half minute anew if more is done than ever before."""
        if done > self._furthest:
            self._furthest = done
            self._until = time.monotonic() + _RETRY_SECONDS

    def attempts(self) -> tenacity.Retrying:
        """Return the tries; the last one's error is raised."""
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(httpx.TransportError),
            stop=lambda _: time.monotonic() >= self._until,
            wait=tenacity.wait_exponential(multiplier=0.2, max=3),
            reraise=True,
        )


class Streamed:
    """A response that is read as it comes; answers that are errors become sentences.

    Reading may still raise `httpx.TransportError`, if the connection breaks off.
    """

    def __init__(self, client: httpx.Client, url: str, headers: Mapping[str, str]) -> None:
        self._url = url
        self._context = client.stream("GET", url, headers=headers)

    def __enter__(self) -> httpx.Response:
        try:
            answer = self._context.__enter__()
        except httpx.TransportError as error:
            raise VolumeError(_unreachable(self._url, error)) from error
        if answer.is_error:
            answer.read()
            message = _refusal(answer, f"GET {self._url}")
            self._context.__exit__(None, None, None)
            raise VolumeError(message)
        return answer

    def __exit__(self, *exception: object) -> None:
        self._context.__exit__(None, None, None)


def _blocks(source: Path | bytes, offset: int, total: int, sent: Sent) -> Iterator[bytes]:
    done = offset
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
        file.seek(offset)
        while block := file.read(_BLOCK):
            yield block
            done += len(block)
            sent(done, total)


def _refusal(answer: httpx.Response, request: str) -> str:
    """Return the service's own sentence, or what it answered instead."""
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):  # HEAD has no body, and a proxy in between other words
        detail = _STATUS_WORDS.get(answer.status_code, f"{answer.status_code} {answer.reason_phrase}")
    return f"volume service: {detail} ({request})"


def _unreachable(url: str, error: Exception) -> str:
    return (
        f"the volume service at {url} cannot be reached ({error}); is the cluster up (`rapidfireai status`)? From "
        "outside of a cluster, forward its port and name the address in RAPIDFIRE_VOLUME_URL"
    )
