"""`InteractiveController`: steer the runs of an experiment from a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rapidfireai.api import Experiment, Run
from rapidfireai.clone.wire import patch_to_wire
from rapidfireai.errors import ConfigError, ExperimentError
from rapidfireai.gateway import Gateway, address
from rapidfireai.notebook.client import GatewayClient, same_place
from rapidfireai.progress.picture import condition_is
from rapidfireai.records import run_record
from rapidfireai.steering import names_of, when_of

if TYPE_CHECKING:
    from rapidfireai.notebook.panel import Panel

_OPERATOR_SECONDS = 60.0


class InteractiveController:
    """Shows the runs of an experiment in a panel and steers them, from the panel's buttons or in Python.

    The panel talks to the gateway from the browser, so that it works while `run_fit` keeps the kernel busy.

    Args:
        dispatcher_url: The gateway; by default the local cluster's, or what `RAPIDFIRE_GATEWAY` names.
        token: Who you are; by default the local cluster's, or what `RAPIDFIRE_TOKEN` holds.
        namespace: The workspace; by default the first that you may see.
        experiment: An experiment by its name; by default the newest, one that is not finished first.

    Raises:
        ValueError: If `dispatcher_url` is on another host than the token is for.
        ClusterNotFoundError: If no gateway is known.
    """

    def __init__(
        self,
        dispatcher_url: str | None = None,
        *,
        token: str | None = None,
        namespace: str | None = None,
        experiment: str | None = None,
    ) -> None:
        self._client = GatewayClient(lambda: _look_up(dispatcher_url, token))
        self._namespace = namespace
        self._experiment = experiment
        self._panel: Panel | None = None
        self._interval = 5.0
        self._selected = 0

    def display(self) -> None:
        """Show the panel below the cell."""
        from IPython.display import display  # noqa: PLC0415 - only a notebook has it

        from rapidfireai.notebook.panel import Panel  # noqa: PLC0415 - scripts do without widgets

        if self._panel is None:
            self._panel = Panel(
                self._client,
                namespace=self._namespace or "",
                experiment=self._experiment or "",
                run=self._selected,
                interval=self._interval,
            )
        display(self._panel)  # type: ignore[no-untyped-call]
        # At once: a kernel that is busy from now on answers nobody who asks.
        self._panel.greet()

    def fetch_all_runs(self) -> list[dict[str, Any]]:
        """Return every run as `Experiment.get_runs_info` describes it, its resource's name as `name` too.

        Raises:
            GatewayError: If the gateway refuses or does not answer.
            ExperimentError: If there is no experiment.
        """
        experiment = self._current()
        items = self._client.call("GET", f"{self._at(experiment)}/runs")["items"]
        runs = sorted(map(Run.from_body, items), key=lambda run: run.spec.index)
        return [{"name": run.metadata.name, **run_record(run, experiment.spec.chunks)} for run in runs]

    def load_run(self, run_id: int | str) -> dict[str, Any]:
        """Return one run as `fetch_all_runs` does, and show it in the panel.

        Args:
            run_id: The run's number or name.

        Raises:
            GatewayError: If there is no such run, or the gateway does not answer.
            ExperimentError: If there is no experiment.
        """
        experiment = self._current()
        run = self._run(experiment, run_id)
        self._selected = run.spec.index
        if self._panel is not None:
            self._panel.run = self._selected
        return {"name": run.metadata.name, **run_record(run, experiment.spec.chunks)}

    def auto_refresh(self, seconds: float = 5.0) -> None:
        """Say how often the panel looks where changes are not sent to it; 0 looks only when asked. Returns at once.

        Raises:
            ValueError: If `seconds` is negative.
        """
        if seconds < 0:
            raise ValueError(f"seconds must be 0 or more, not {seconds}")
        self._interval = float(seconds)
        if self._panel is not None:
            self._panel.interval = self._interval

    def stop(self, run_id: int | str, when: str = "boundary") -> None:
        """Let a run rest: it commits, keeps its place, and goes on with `resume`.

        Args:
            run_id: The run's number or name.
            when: "boundary" lets the current chunk end, "immediate" the current optimizer step. Nothing is lost.

        Raises:
            ExperimentError: If it is refused; the message says why.
            GatewayError: If the gateway refuses or does not answer.
        """
        self._operate("Stop", run_id, when=when_of(when))

    def resume(self, run_id: int | str) -> None:
        """Let a stopped run go on from where it stands.

        Args:
            run_id: The run's number or name.

        Raises:
            ExperimentError, GatewayError: As `stop`.
        """
        self._operate("Resume", run_id)

    def delete(self, run_id: int | str, when: str = "boundary") -> None:
        """End a run for good and hide its results; its checkpoints stay, so that it can still be cloned.

        Args:
            run_id: The run's number or name.
            when: As for `stop`.

        Raises:
            ExperimentError, GatewayError: As `stop`.
        """
        self._operate("Delete", run_id, when=when_of(when))

    def clone(
        self, run_id: int | str, config_or_patch: Mapping[str, Any] | None = None, warm_start: bool = False
    ) -> int:
        """Make a new run like this one with changed knobs, and return its number.

        Args:
            run_id: The parent's number or name.
            config_or_patch: What changes, such as `{"training_args": {"learning_rate": 1e-4}}`; a whole config does as
                well. Functions are inherited; to send others there is `Experiment.clone`.
            warm_start: Whether it begins with the weights of the parent's last commit.

        Raises:
            ConfigError: If there is a function in it.
            ExperimentError: If it is refused; the message names the knob.
            GatewayError: If the gateway refuses or does not answer.
        """
        clone = {"patch": patch_to_wire(config_or_patch, _no_function), "warmStart": warm_start}
        created = self._operate("CloneModify", run_id, clone=clone)
        return int(str(created).rpartition("-r")[2])

    def _operate(self, op: str, run_id: int | str, **more: Any) -> str | None:
        """Have an operation carried out on one run; return the name of the clone if it made one."""
        experiment = self._current()
        spec = {"op": op, "runs": names_of(experiment.metadata.name, run_id), **more}
        icop = self._client.operate(self.namespace, experiment.metadata.name, spec, _OPERATOR_SECONDS)
        results = icop["status"].get("results") or []
        for each in results:
            if each["outcome"] == "Refused":
                raise ExperimentError(f"{each['run']}: {each['message']}")
        return next((each["created"] for each in results if each.get("created")), None)

    @property
    def namespace(self) -> str:
        """The workspace that is steered.

        Raises:
            GatewayError: If the gateway refuses or does not answer.
            ExperimentError: If the user may see no workspace.
        """
        if self._namespace is None:
            seen = self._client.call("GET", "/whoami")["namespaces"]
            if not seen:
                raise ExperimentError("you may see no workspace; bind yourself to the Role rapidfire-user of one")
            self._namespace = str(seen[0])
        return self._namespace

    def _current(self) -> Experiment:
        path = f"/namespaces/{self.namespace}/experiments"
        every = [Experiment.from_body(each) for each in self._client.call("GET", path)["items"]]
        if self._experiment is not None:
            wanted = (self._experiment,)
            every = [each for each in every if each.metadata.name in wanted or each.spec.display_name in wanted]
        if not every:
            named = f"called {self._experiment!r} " if self._experiment else ""
            raise ExperimentError(f"there is no experiment {named}in {self.namespace}; call run_fit first")
        return max(every, key=lambda each: (not condition_is(each, "Finished", "True"), _made(each)))

    def _at(self, experiment: Experiment) -> str:
        return f"/namespaces/{self.namespace}/experiments/{experiment.metadata.name}"

    def _run(self, experiment: Experiment, run_id: int | str) -> Run:
        (name,) = names_of(experiment.metadata.name, run_id)
        path = f"/namespaces/{self.namespace}/runs/{name}"
        return Run.from_body(self._client.call("GET", path))


def _look_up(url: str | None, token: str | None) -> Gateway:
    """Return address and token: what the user gave, else what this machine knows."""
    given = url.rstrip("/").removesuffix("/dispatcher") if url else ""
    if given and token:
        return Gateway(given, "", token)
    known = address()
    if given and not same_place(given, known.url):
        raise ValueError(
            f"dispatcher_url {given} is on another host than the gateway that the token is for ({known.url}); "
            "pass token=... as well"
        )
    return Gateway(given or known.url, known.dashboard_url, token or known.token)


def _no_function(value: object, path: str) -> dict[str, Any]:
    raise ConfigError(path, f"{value!r} cannot be sent through the gateway; Experiment.clone sends functions")


def _made(experiment: Experiment) -> str:
    return str(experiment.metadata.creation_timestamp or "")
