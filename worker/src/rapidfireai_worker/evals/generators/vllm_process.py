"""The processes of a vLLM engine: what they inherit, what they say when they fail, and who ends them."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vllm.logger import DEFAULT_LOGGING_CONFIG
from vllm.v1.executor import Executor
from vllm.v1.executor.multiproc_executor import MultiprocExecutor
from vllm.v1.executor.uniproc_executor import UniProcExecutor

from rapidfireai_worker.evals.generators.vllm_mortality import end_with_parent

_LOGGING = "VLLM_LOGGING_CONFIG_PATH"
_MESSAGE = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Exit|Interrupt|Warning))\b(.*)$")


class MortalMultiprocExecutor(MultiprocExecutor):  # type: ignore[misc]
    """vLLM's executor with a process for each device. These end when the engine does, and it ends with the worker."""

    def __init__(self, vllm_config: Any, monitor_workers: bool = True) -> None:
        end_with_parent()
        super().__init__(vllm_config, monitor_workers)


class MortalUniProcExecutor(UniProcExecutor):  # type: ignore[misc]
    """vLLM's executor inside the engine's process, which ends with the worker."""

    def __init__(self, vllm_config: Any) -> None:
        end_with_parent()
        super().__init__(vllm_config)


def executor_for(vllm_config: Any) -> type[Any]:
    """Return the executor that vLLM would take, as one that leaves no orphans."""
    mortal: dict[type[Any], type[Any]] = {
        MultiprocExecutor: MortalMultiprocExecutor,
        UniProcExecutor: MortalUniProcExecutor,
    }
    chosen: type[Any] = Executor.get_class(vllm_config)
    return mortal.get(chosen, chosen)


@contextmanager
def environment(variables: Mapping[str, str], errors: Path) -> Iterator[None]:
    """Have the engine's processes started with these variables, and this process's own untouched afterwards.

    vLLM sets variables too, such as LD_PRELOAD, which are not for other programs that the worker starts.

    Args:
        variables: What is set where nobody has set it.
        errors: A folder where the processes put what they log as errors.
    """
    before = dict(os.environ)
    for name, value in variables.items():
        os.environ.setdefault(name, value)
    if _LOGGING not in before:
        os.environ[_LOGGING] = str(_logging_config(errors))
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def root_cause(errors: Path) -> str | None:
    """Return the first exception that the engine's processes logged, as `Type: message`, or None."""
    file = _error_file(errors)
    if not file.exists():
        return None
    lines = file.read_text(errors="replace").splitlines()
    for number, line in enumerate(lines):
        # That the engine is dead is what this process found, and no cause.
        if (found := _MESSAGE.match(line)) and not found[1].endswith("EngineDeadError"):
            more = []
            for following in lines[number + 1 :]:
                if not following or following.startswith(("Traceback", "During", "The above", "EngineCore", "Worker")):
                    break
                more.append(following.strip())
            return " ".join([found[0], *more])
    return None


def _error_file(folder: Path) -> Path:
    return folder / "errors.log"


def _logging_config(folder: Path) -> Path:
    config = copy.deepcopy(DEFAULT_LOGGING_CONFIG)
    config["formatters"]["plain"] = {"format": "%(message)s"}
    config["handlers"]["errors"] = {
        "class": "logging.FileHandler",
        "filename": str(_error_file(folder)),
        "formatter": "plain",
        "level": "ERROR",
        "delay": True,
    }
    config["loggers"]["vllm"]["handlers"].append("errors")
    path = folder / "logging.json"
    path.write_text(json.dumps(config))
    return path
