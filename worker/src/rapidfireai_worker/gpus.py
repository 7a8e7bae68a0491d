"""The GPUs of a worker as their driver sees them, read whenever Prometheus asks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pynvml
import structlog
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from rapidfireai_worker.measures import PREFIX

_log = structlog.get_logger(__name__)


class GpuCollector(Collector):
    """Memory and utilisation of each GPU that this process may use; nothing where there is no driver.

    Args:
        environment: `CUDA_VISIBLE_DEVICES` in it names the GPUs; without it they are all that the driver shows, which
            inside a container are the container's own.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._handles = _handles(environment.get("CUDA_VISIBLE_DEVICES"))

    def describe(self) -> list[GaugeMetricFamily]:
        """Return the metrics without values, so that their names are known where there is no GPU."""
        texts = {
            "gpu_memory_used_bytes": "Memory of a GPU that is in use, by whichever process.",
            "gpu_memory_total_bytes": "Memory of a GPU.",
            "gpu_utilisation_ratio": "Part of the last moments in which a GPU computed.",
        }
        return [GaugeMetricFamily(PREFIX + name, text, labels=["gpu"]) for name, text in texts.items()]

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Read the driver."""
        used, total, utilisation = families = self.describe()
        for name, handle in self._handles.items():
            try:
                memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
                share = pynvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
            except pynvml.NVMLError as error:  # a GPU that fell off the bus costs its numbers, not all metrics
                _log.debug("a GPU cannot be read", gpu=name, error=str(error))
                continue
            used.add_metric([name], memory.used)
            total.add_metric([name], memory.total)
            utilisation.add_metric([name], share)
        yield from families


def _handles(visible: str | None) -> dict[str, Any]:
    """Return the driver's handles of GPUs by the name that CUDA_VISIBLE_DEVICES gives them, or by their number."""
    try:
        pynvml.nvmlInit()
        if visible is None:
            return {
                str(index): pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())
            }
        names = [name.strip() for name in visible.split(",") if name.strip()]
        return {name: _handle(name) for name in names}
    except pynvml.NVMLError:  # no driver, so no GPU
        return {}


def _handle(name: str) -> Any:
    if name.isdigit():
        return pynvml.nvmlDeviceGetHandleByIndex(int(name))
    return pynvml.nvmlDeviceGetHandleByUUID(name)
