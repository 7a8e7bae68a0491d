"""GPUs: how many this machine offers, and which container has which."""

from __future__ import annotations

from collections.abc import Mapping

import pynvml
import structlog
from kubernetes.utils import parse_quantity

from rapidfireai.cluster.node.facts import Json
from rapidfireai.errors import RapidFireError

GPU = "nvidia.com/gpu"
SLOT = "rapidfire.ai/slot"
LEAST_SLOTS = 2

log = structlog.get_logger()


class NoDeviceError(RapidFireError):
    """Every GPU is still held by another pod."""


def find_gpus(env: Mapping[str, str]) -> tuple[str, ...]:
    """Return the identifiers of the GPUs that pods may have.

    Args:
        env: `CUDA_VISIBLE_DEVICES` in it names them; without it they are all that the driver reports.
    """
    named = env.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return _all_gpus()
    found: list[str] = []
    for each in (part.strip() for part in named.split(",")):
        if not each or each.startswith("-"):  # CUDA stops reading at the first invalid entry too
            break
        found.append(each)
    return tuple(found)


def _all_gpus() -> tuple[str, ...]:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.info("no NVIDIA driver, so no GPUs", error=str(error))
        return ()
    try:
        return tuple(str(index) for index in range(pynvml.nvmlDeviceGetCount()))
    finally:
        pynvml.nvmlShutdown()


def extended_resources(gpus: tuple[str, ...], cores: int) -> dict[str, str]:
    """Return the node's capacity beyond CPU and memory: GPUs, or worker slots on a machine without any."""
    if gpus:
        return {GPU: str(len(gpus)), SLOT: "0"}
    return {GPU: "0", SLOT: str(max(cores, LEAST_SLOTS))}


def gpus_wanted(container: Json) -> int:
    """Return how many GPUs a container asks for."""
    limits = (container.get("resources") or {}).get("limits") or {}
    return int(parse_quantity(limits.get(GPU, "0")))


class Devices:
    """Which GPUs are taken, by whom."""

    def __init__(self, gpus: tuple[str, ...]) -> None:
        self._gpus = gpus
        self._taken: dict[str, str] = {}

    def take(self, uid: str, wanted: Mapping[str, int]) -> dict[str, tuple[str, ...]]:
        """Give each container of a pod its GPUs, all or none.

        Raises:
            NoDeviceError: If too few are free: a pod that is ending may still hold them.
        """
        free = [gpu for gpu in self._gpus if gpu not in self._taken]
        needed = sum(wanted.values())
        if needed > len(free):
            raise NoDeviceError(
                f"waiting for {needed} GPUs; {len(free)} of {len(self._gpus)} are free on this machine now"
            )
        given: dict[str, tuple[str, ...]] = {}
        for container, count in wanted.items():
            given[container], free = tuple(free[:count]), free[count:]
        self._taken |= {gpu: uid for gpus in given.values() for gpu in gpus}
        return given

    def keep(self, uid: str, given: Mapping[str, tuple[str, ...]]) -> bool:
        """Give a pod the GPUs that it had before the node was started again; False if they are not there any more."""
        gpus = [gpu for each in given.values() for gpu in each]
        if not all(gpu in self._gpus and self._taken.get(gpu, uid) == uid for gpu in gpus):
            return False
        self._taken |= dict.fromkeys(gpus, uid)
        return True

    def release(self, uid: str) -> None:
        """Free what a pod has."""
        self._taken = {gpu: owner for gpu, owner in self._taken.items() if owner != uid}


def device_environment(gpus: tuple[str, ...]) -> dict[str, str]:
    """Return the variables that show a container its GPUs, and none but them."""
    return {
        "CUDA_VISIBLE_DEVICES": ",".join(gpus),
        "NVIDIA_VISIBLE_DEVICES": ",".join(gpus) or "void",
    }
