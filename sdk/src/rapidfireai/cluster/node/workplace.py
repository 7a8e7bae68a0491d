"""What a pod's containers start with: directories, service account, environment."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rapidfireai.cluster.node.api import Api
from rapidfireai.cluster.node.container import Launch
from rapidfireai.cluster.node.devices import device_environment
from rapidfireai.cluster.node.environment import (
    ConfigurationError,
    Place,
    base_environment,
    command_line,
    container_environment,
    references,
)
from rapidfireai.cluster.node.facts import Json, PodFacts, containers_of
from rapidfireai.cluster.node.probes import Target
from rapidfireai.cluster.node.process import MARKER_ENV
from rapidfireai.cluster.node.sources import persistent_volumes, read_sources
from rapidfireai.cluster.node.tokens import ProjectedVolume
from rapidfireai.cluster.node.volumes import provide, required_directories, service_account_volume
from rapidfireai.kube import SERVICE_ACCOUNT_DIR_ENV


@dataclass(frozen=True, slots=True)
class Workplace:
    """Where one pod's containers work.

    Attributes:
        directory: The pod's own.
        place: What the downward API tells of the node.
        environment: The node's own environment.
    """

    api: Api
    pod: Json
    directory: Path
    temporary: Path
    place: Place
    environment: Mapping[str, str]

    async def prepare(self) -> Sequence[ProjectedVolume]:
        """Make the directories and write the tokens; return the volumes that have to be kept fresh.

        Raises:
            MountError: If a mount cannot be honoured, or not yet.
            ConfigurationError: If something that a projected volume names is missing.
            ApiException: If the API server refuses something.
        """
        for directory in required_directories(self.pod, await persistent_volumes(self.api, self.pod)):
            provide(directory)
        for path in (self._home, self.temporary):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        used = [service_account_volume(self.pod, each) for each in containers_of(self.pod)]
        volumes = [
            ProjectedVolume(self.api, self.pod, each, self._volume_path(each), self.place)
            for each in {each["name"]: each for each in used if each}.values()
        ]
        for volume in volumes:
            await volume.write()
        return volumes

    async def launch(self, spec: Json, facts: PodFacts) -> Launch:
        """Return how to start a container; Secrets and ConfigMaps are read anew each time.

        Raises:
            ConfigurationError: If something that it needs is missing.
        """
        name = spec["name"]
        own = device_environment(facts.devices.get(name, ())) | {MARKER_ENV: f"{facts.uid}/{name}"}
        volume = service_account_volume(self.pod, spec)
        if volume:
            own[SERVICE_ACCOUNT_DIR_ENV] = str(self._volume_path(volume))
        base = base_environment(self.environment, self._home, self.temporary, self.api.server) | own
        sources = await read_sources(self.api, facts.namespace, *references([spec]))
        env = container_environment(self.pod, spec, base, sources, self.place) | {MARKER_ENV: own[MARKER_ENV]}
        directory = Path(spec.get("workingDir") or self._home)
        if not await asyncio.to_thread(directory.is_dir):
            raise ConfigurationError(f"workingDir {directory} of container {name} is not a directory on this machine")
        ports = {each["name"]: each["containerPort"] for each in spec.get("ports") or () if "name" in each}
        return Launch(command_line(spec, env), directory, Target(facts.ip, ports, env, directory))

    @property
    def _home(self) -> Path:
        return self.directory / "home"

    def _volume_path(self, volume: Json) -> Path:
        return self.directory / "volumes" / str(volume["name"])
