"""Models in vLLM: one engine for each distinct engine config, kept warm and handed from run to run."""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import structlog

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.evals.generators.vllm_spec import (
    SAMPLING_FIELD,
    Adapter,
    EngineSpec,
    engine_spec,
    field_names,
    read_adapter,
    sampling_arguments,
)
from rapidfireai_worker.evals.parts import Conversation, Generation, Site
from rapidfireai_worker.measures import SWAP_SECONDS

# What vLLM reads while it is imported. INFO is a page for each engine.
os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("DO_NOT_TRACK", "1")

from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.exceptions import VLLMClientError
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform
from vllm.sampling_params import SamplingParams, StructuredOutputsParams

from rapidfireai_worker.evals.generators.vllm_engine import Engine, check_arguments

_ENGINE_ARGUMENTS = field_names(AsyncEngineArgs)
_SAMPLING_ARGUMENTS = field_names(SamplingParams)
_FIRST_GUESS = 16
"""Rows that a batch is taken to have before the first one is there."""
_log = structlog.get_logger(__name__)


class VllmGenerator:
    """Answers conversations for one run with its own sampling parameters and adapter, in an engine that others share.

    If its engine was given up for another's meanwhile, the next batch waits for it to start again.

    Args:
        engines: Where its engine comes from.
        spec: The engine that it needs.
        sampling: Its sampling parameters.
        adapter: Its adapter.
        capacity: How many rows the engine works on at once.
    """

    def __init__(
        self,
        engines: VllmEngines,
        spec: EngineSpec,
        sampling: Mapping[str, Any],
        adapter: LoRARequest | None,
        capacity: int,
    ) -> None:
        self._engines = engines
        self._spec = spec
        self._sampling = sampling
        self._adapter = adapter
        self._capacity = capacity
        self._rows = _FIRST_GUESS
        self.answered = 0
        self._under_way: set[Future[list[Generation]]] = set()

    @property
    def in_flight(self) -> int:
        """As many batches as fill the engine, and one more, so that it never waits."""
        return -(-self._capacity // self._rows) + 1

    def submit(self, conversations: Sequence[Conversation]) -> Future[list[Generation]]:
        """Ask for the answers to a batch; a conversation may also be a text, which gets no chat template."""
        self._rows = max(1, len(conversations))
        engine = self._engines.awake(self._spec)
        future = engine.ask(conversations, engine.sampling(self._sampling), self._adapter, self._count)
        self._under_way.add(future)
        future.add_done_callback(self._under_way.discard)
        return future

    def close(self) -> None:
        """Give up everything that is under way; the engine stays warm."""
        for future in list(self._under_way):
            future.cancel()

    def _count(self) -> None:
        self.answered += 1


class VllmEngines:
    """The engines of a worker: one awake, others asleep where the platform can do that.

    Args:
        site: The worker.
    """

    def __init__(self, site: Site) -> None:
        self._variables = _variables(site.threads)
        self._defaults = _defaults()
        self._engines: list[Engine] = []
        self._adapters: dict[str, int] = {}
        self._numbers = itertools.count(1)
        self._lock = threading.RLock()

    def generator(self, job_run: str, config: Mapping[str, Any], adapter: str | None) -> VllmGenerator:
        """Return the generator of a run; its engine is up afterwards, which may take a minute or two."""
        sampling = sampling_arguments(config, _SAMPLING_ARGUMENTS)
        _check_sampling(sampling)
        found = None if adapter is None else read_adapter(adapter)
        spec = engine_spec(config, found, known=_ENGINE_ARGUMENTS, defaults=self._defaults)
        request = None if found is None else self._request(job_run, found)
        engine = self.awake(spec)
        if request is not None:
            engine.load(request)
        return VllmGenerator(self, spec, sampling, request, engine.capacity)

    def awake(self, spec: EngineSpec) -> Engine:
        """Return an engine that does for `spec`, awake, and let the others go to sleep or end.

        Raises:
            RunFailure: If it does not start.
        """
        with self._lock:
            self._bury()
            engine = next((each for each in self._engines if each.spec.serves(spec)), None)
            if engine is not None and not engine.asleep:
                return engine
            if engine is None:
                check_arguments(spec, self._variables)
            for other in [each for each in self._engines if not each.asleep]:
                # One that the new one replaces is not needed again.
                if spec.serves(other.spec) or not other.rest():
                    self._end(other)
            with SWAP_SECONDS.labels("engine").time():
                if engine is None:
                    engine = self._started(spec)
                    self._engines.append(engine)
                else:
                    engine.wake()
            return engine

    def used_bytes(self) -> int:
        """Return how much memory is held, on the GPU if there is one."""
        with self._lock:
            return sum(engine.used_bytes() for engine in self._engines)

    def close(self) -> None:
        """End all engines."""
        with self._lock:
            for engine in list(self._engines):
                self._end(engine)

    def _started(self, spec: EngineSpec) -> Engine:
        """Start an engine; if it does not fit beside those that are asleep, without them."""
        try:
            return Engine(spec, self._variables)
        except RunFailure as failure:
            if failure.reason != "OutOfMemory" or not self._engines:
                raise
            _log.warning("no room beside engines that are asleep, ending these", error=failure.message)
            self.close()
            return Engine(spec, self._variables)

    def _request(self, job_run: str, adapter: Adapter) -> LoRARequest:
        with self._lock:
            number = self._adapters.setdefault(adapter.identity, next(self._numbers))
        return LoRARequest(lora_name=f"{job_run}-{number}", lora_int_id=number, lora_path=str(adapter.path))

    def _bury(self) -> None:
        for engine in [each for each in self._engines if each.dead]:
            _log.warning("a vLLM engine died; the next run that needs it gets a new one")
            self._end(engine)

    def _end(self, engine: Engine) -> None:
        self._engines.remove(engine)
        engine.close()


def _defaults() -> dict[str, Any]:
    """Return the engine arguments that hold on this platform unless the user says otherwise."""
    if current_platform.is_cpu():
        return {"dtype": "float32", "enforce_eager": True}
    return {"enable_sleep_mode": True} if current_platform.is_sleep_mode_available() else {}


def _variables(threads: int) -> dict[str, str]:
    """Return the environment of an engine's processes, where the worker's own does not say otherwise."""
    variables = {
        # The worker has threads, and a forked copy of these may wait for a lock for ever.
        "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
        "OMP_NUM_THREADS": str(threads),
    }
    if current_platform.is_cpu():
        # vLLM would bind every engine of a machine to the same cores.
        variables |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    return variables


def _check_sampling(arguments: dict[str, Any]) -> None:
    """Have vLLM check the sampling parameters, now and not at the first row.

    Raises:
        RunFailure: If it refuses them.
    """
    try:
        if isinstance(wanted := arguments.get("structured_outputs"), Mapping):
            arguments["structured_outputs"] = StructuredOutputsParams(**wanted)
        SamplingParams(**arguments)
    except (ValueError, TypeError, VLLMClientError) as error:
        raise RunFailure("InvalidConfig", f"{SAMPLING_FIELD}: vLLM refuses them: {error}") from error
