"""The local cluster as a whole: the control plane, the process node, and the chart installed on them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from pydantic import BaseModel, ValidationError

from rapidfireai.cluster import ports
from rapidfireai.cluster.binary import find_binary
from rapidfireai.cluster.control_plane import ControlPlane
from rapidfireai.cluster.home import (
    HOME_ENV,
    Report,
    default_home,
    exclusive,
    kubeconfig_of,
    settings_of,
    token_of,
)
from rapidfireai.cluster.install import Helm
from rapidfireai.cluster.processes import BackgroundProcess
from rapidfireai.cluster.readiness import Part, parts
from rapidfireai.cluster.user_token import renew
from rapidfireai.cluster.values import Ports, local_values, url_of
from rapidfireai.errors import RapidFireError

_OPTIONAL = frozenset({"mlflow", "gateway"})
"""Parts that no run needs."""
_STARTING = " (starting, 20 s or so; no run waits for it)"
_GATEWAY_SECONDS = 5.0
_POLL_SECONDS = 0.25
_STOP_SECONDS = 60.0


class LocalClusterError(RapidFireError):
    """The local cluster cannot be used; the message says what to do."""


class Settings(BaseModel):
    """What a running cluster was started with; kept in its directory."""

    kubelocal: Path
    mlflow_port: int
    volume_port: int
    gateway_port: int = Ports().gateway
    dashboard_port: int = Ports().dashboard
    metrics_port: int = 9092

    @property
    def ports(self) -> Ports:
        """Where the services listen."""
        return Ports(self.gateway_port, self.mlflow_port, self.dashboard_port, self.volume_port)


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """What runs of the local cluster.

    Attributes:
        processes: Whether each part of the control plane and the node runs.
        parts: The parts that the chart installed; empty if the API server does not answer.
        server: The API server's URL, or None if the cluster was never started.
    """

    processes: dict[str, bool]
    parts: tuple[Part, ...]
    server: str | None
    mlflow_url: str
    volume_url: str
    gateway_url: str
    dashboard_url: str

    @property
    def running(self) -> bool:
        """Whether every process runs."""
        return bool(self.processes) and all(self.processes.values())

    @property
    def ready(self) -> bool:
        """Whether experiments can run; neither MLflow nor the gateway is needed for that."""
        needed = [each for each in self.parts if each.component not in _OPTIONAL]
        return self.running and bool(needed) and all(each.ready for each in needed)


class LocalCluster:
    """A real Kubernetes cluster of this machine alone, whose pods are ordinary processes.

    Args:
        home: Its directory; `$RAPIDFIREAI_HOME` or `~/.rapidfireai` if None.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or default_home()).absolute()
        self.volume = self.home / "volume"
        self.programs = self.home / "bin"
        self.plane_home = self.home / "control-plane"
        self._settings_file = settings_of(self.home)
        self._token_file = token_of(self.home)
        self._node = BackgroundProcess("node", self.home)

    @property
    def kubeconfig(self) -> Path:
        """The administrator's kubeconfig; it exists once the cluster was started."""
        return kubeconfig_of(self.home)

    @property
    def mlflow_url(self) -> str:
        """Where MLflow is."""
        return url_of(self._ports().mlflow)

    @property
    def volume_url(self) -> str:
        """Where the volume service is."""
        return url_of(self._ports().volume)

    @property
    def gateway_url(self) -> str:
        """Where the REST API is."""
        return url_of(self._ports().gateway)

    @property
    def dashboard_url(self) -> str:
        """Where the dashboard is."""
        return url_of(self._ports().dashboard)

    @property
    def binary(self) -> Path:
        """The `kubelocal` binary that the cluster was started with.

        Raises:
            LocalClusterError: If the cluster was never started, or the binary is gone.
        """
        settings = self._settings()
        if settings is None or not self.kubeconfig.exists():
            raise LocalClusterError(f"there is no local cluster in {self.home}: run `rapidfireai start`")
        if not settings.kubelocal.is_file():
            raise LocalClusterError(f"{settings.kubelocal} is gone: run `rapidfireai start` to build or find it again")
        return settings.kubelocal

    def start(self, report: Report = print, *, values: Sequence[Path] = (), timeout: float = 120.0) -> None:
        """Start what does not run, and return when experiments can run.

        MLflow takes longer and is not waited for, and the gateway only for some seconds: no run needs them. The user's
        token is written anew each time.

        Args:
            report: Told one line of progress at a time.
            values: YAML files with values of the chart.
            timeout: How many seconds everything may take, building the binary aside.

        Raises:
            RapidFireError: If a part does not come up; the message shows its last words.
            BinaryError: If there is no control plane to start.
        """
        if not sys.platform.startswith("linux"):
            raise LocalClusterError(f"the local cluster needs Linux, this is {sys.platform}: use --kubeconfig FILE")
        if ":" in str(self.home):
            raise LocalClusterError(f"{self.home}: a colon cannot be in it, name another directory in {HOME_ENV}")
        with exclusive(self.home, report):
            binary = find_binary(report)
            clock = _Clock(report, timeout)
            plane = ControlPlane(self.plane_home, binary)
            plane.start()
            clock.tell(f"control plane ready: {plane.server}")
            settings = self._choose_settings(binary)
            self._start_node()
            self._link_programs(binary)
            self._renew_crashed(plane)
            self._install(settings, values)
            clock.tell("chart installed; waiting for the operator and the volume service")
            self._wait_ready(plane, clock)
            renew(plane.kubectl, self._token_file)
            clock.tell("ready")
            waiting = self._still_starting(plane)
            for component, line in (
                ("gateway", f"dashboard: {self.dashboard_url}  log in with `rapidfireai dashboard`"),
                ("mlflow", f"MLflow: {self.mlflow_url}"),
            ):
                report(f"{line}{_STARTING if component in waiting else ''}")

    def stop(self, report: Report = print) -> None:
        """End all pods, the node and the control plane; what they stored stays."""
        if not self.home.exists():
            return
        with exclusive(self.home, report):
            self._stop()

    def purge(self, report: Report = print) -> None:
        """Stop, and remove all state: resources, checkpoints, MLflow's records."""
        if not self.home.exists():
            return
        with exclusive(self.home, report):
            self._stop()
            ControlPlane(self.plane_home, Path()).purge()
            # Only what is ours: the directory may be one that the user chose.
            for name in ("volume", "node", "bin", "helm", "log", "pid"):
                shutil.rmtree(self.home / name, ignore_errors=True)
            for name in ("settings.json", "token", "lock"):
                (self.home / name).unlink(missing_ok=True)
        with suppress(OSError):  # something that is not ours is in it, or the next command has begun already
            self.home.rmdir()

    def kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the cluster's administrator; the caller judges the exit code.

        Raises:
            LocalClusterError: If the cluster was never started.
        """
        return ControlPlane(self.plane_home, self.binary).kubectl(*words)

    def owns(self, process: psutil.Process) -> bool:
        """Say whether a process is one of the cluster's pods."""
        try:
            env = process.environ()
        except psutil.Error:  # it has ended, or is another user's
            return False
        server = f"https://{env.get('KUBERNETES_SERVICE_HOST')}:{env.get('KUBERNETES_SERVICE_PORT')}"
        return self.kubeconfig.exists() and server == ControlPlane(self.plane_home, Path()).server

    def log_of(self, process: str) -> Path:
        """Return the log of `node` or of a part of the control plane."""
        home = self.home if process == self._node.name else self.plane_home
        return BackgroundProcess(process, home).log

    def status(self) -> ClusterStatus:
        """Return what runs; asks the API server if there is one."""
        settings = self._settings()
        started = settings is not None and self.kubeconfig.exists()
        plane = ControlPlane(self.plane_home, settings.kubelocal) if settings and started else None
        processes = {**plane.running(), "node": self._node.find() is not None} if plane else {}
        return ClusterStatus(
            processes=processes,
            parts=parts(plane.kubectl) if plane and processes["kube-apiserver"] else (),
            server=plane.server if plane else None,
            mlflow_url=self.mlflow_url,
            volume_url=self.volume_url,
            gateway_url=self.gateway_url,
            dashboard_url=self.dashboard_url,
        )

    def _ports(self) -> Ports:
        settings = self._settings()
        return settings.ports if settings else Ports()

    def _settings(self) -> Settings | None:
        try:
            return Settings.model_validate_json(self._settings_file.read_text())
        except (OSError, ValidationError):  # never started, or the file was damaged: then it is chosen anew
            return None

    def _choose_settings(self, binary: Path) -> Settings:
        """Keep the ports of a cluster that runs; else take the usual ones, or free ones where they are taken."""
        before = self._settings()
        if before and self._node.find() is not None:
            chosen = before.model_copy(update={"kubelocal": binary})
        else:
            wanted = before.ports if before else Ports()
            chosen = Settings(
                kubelocal=binary,
                mlflow_port=ports.choose(wanted.mlflow, self.owns),
                volume_port=ports.choose(wanted.volume, self.owns),
                gateway_port=ports.choose(wanted.gateway, self.owns),
                dashboard_port=ports.choose(wanted.dashboard, self.owns),
                metrics_port=ports.choose(before.metrics_port if before else 9092, self.owns),
            )
        self._settings_file.write_text(chosen.model_dump_json(indent=2))
        return chosen

    def _start_node(self) -> None:
        words = ["--home", str(self.home / "node"), "--kubeconfig", str(self.kubeconfig), "--name", "local"]
        self._node.start([sys.executable, "-m", "rapidfireai.cluster.node", *words])

    def _renew_crashed(self, plane: ControlPlane) -> None:
        """Give parts that keep ending another try at once: whoever starts the cluster again has mended something."""
        for each in parts(plane.kubectl):
            if each.crashing:
                words = ("delete", "pods", "--namespace", each.namespace, "--wait=false", "--selector", each.selector)
                plane.kubectl(*words)

    def _link_programs(self, binary: Path) -> None:
        """Make `kubectl` and `helm` of the binary, for a PATH: it acts by the name that it is called by."""
        self.programs.mkdir(exist_ok=True)
        for name in ("kubectl", "helm"):
            (self.programs / name).unlink(missing_ok=True)
            (self.programs / name).symlink_to(binary)

    def _install(self, settings: Settings, files: Sequence[Path]) -> None:
        from rapidfireai.cluster.node.devices import find_gpus  # noqa: PLC0415 - slow to import, and needed here alone

        self.volume.mkdir(exist_ok=True, mode=0o700)
        values = local_values(self.volume, settings.ports, len(find_gpus(os.environ)))
        values["gateway"]["metricsPort"] = settings.metrics_port
        helm = Helm(settings.kubelocal, self.kubeconfig, self.home / "helm")
        helm.install(values, files, take_ownership=True)

    def _wait_ready(self, plane: ControlPlane, clock: _Clock) -> None:
        while True:
            if self._node.find() is None:
                raise LocalClusterError(f"the node ended:\n{self._node.last_lines(20)}")
            needed = [each for each in parts(plane.kubectl) if each.component not in _OPTIONAL]
            waiting = [each for each in needed if not each.ready]
            if needed and not waiting and all(map(_answers, needed)):
                return
            for each in waiting:
                clock.tell_new(each.summary)
            if clock.over:
                raise LocalClusterError(_why_not_ready(plane, waiting or needed))
            time.sleep(_POLL_SECONDS)

    def _still_starting(self, plane: ControlPlane) -> set[str]:
        """Return which optional parts are not ready; the gateway gets a moment, since people open it next."""
        deadline = time.monotonic() + _GATEWAY_SECONDS
        while True:
            waiting = {
                each.component for each in parts(plane.kubectl) if each.component in _OPTIONAL and not each.ready
            }
            if "gateway" not in waiting or time.monotonic() > deadline:
                return waiting
            time.sleep(_POLL_SECONDS)

    def _stop(self) -> None:
        self._node.stop(_STOP_SECONDS)
        # A node that was killed leaves its pods behind.
        orphans = [each for each in psutil.process_iter() if each.pid != os.getpid() and self.owns(each)]
        for end in (psutil.Process.terminate, psutil.Process.kill):
            for each in orphans:
                with suppress(psutil.NoSuchProcess):  # it has just ended
                    end(each)
            _, orphans = psutil.wait_procs(orphans, timeout=_STOP_SECONDS / 2)
        ControlPlane(self.plane_home, Path()).stop()


def _answers(part: Part) -> bool:
    """Ask the part itself: after an unclean end the API server still shows the dead one as ready."""
    import httpx  # noqa: PLC0415 - `rapidfireai kubectl` has no need of it

    try:
        return part.health is not None and httpx.get(part.health, timeout=2.0, trust_env=False).is_success
    except httpx.HTTPError:
        return False


def _why_not_ready(plane: ControlPlane, waiting: Sequence[Part]) -> str:
    """Return what each part waits for, with the last words of its container and where to look further."""
    lines = ["not ready in time:"]
    for each in waiting:
        logs = plane.kubectl("logs", "--namespace", each.namespace, f"deployment/{each.name}", "--tail=15")
        lines += [f"- {each.summary}", *(f"    {line}" for line in logs.stdout.splitlines())]
    first = waiting[0] if waiting else None
    if first:
        lines.append(f"Look further: rapidfireai kubectl --namespace {first.namespace} describe pods")
    return "\n".join(lines)


class _Clock:
    """Reports lines with the time since the start."""

    def __init__(self, report: Report, timeout: float) -> None:
        self._report = report
        self._started = time.monotonic()
        self._deadline = self._started + timeout
        self._told: set[str] = set()

    @property
    def over(self) -> bool:
        return time.monotonic() > self._deadline

    def tell(self, line: str) -> None:
        self._report(f"{time.monotonic() - self._started:5.1f} s  {line}")

    def tell_new(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.tell(line)
