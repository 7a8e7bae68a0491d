"""A worker with a vLLM engine, as a process that a test kills: `python -m tests.support.vllm_worker MODEL`.

It answers, sees its engine die, answers again with a new one, and says each time what came of it in a line of JSON.
"""

from __future__ import annotations

import json
import sys
import threading
from pathlib import Path
from typing import Any

import psutil


def main() -> None:
    from rapidfireai_worker.engine import RunFailure
    from rapidfireai_worker.evals.generators.vllm import VllmEngines
    from rapidfireai_worker.evals.parts import Site
    from rapidfireai_worker.layout import Volume

    model = Path(sys.argv[1])
    engines = VllmEngines(Site(Volume(model.parent), threads=1))
    config = {
        "model_config": {"model": str(model), "max_model_len": 256},
        "sampling_params": {"temperature": 0, "max_tokens": 200, "ignore_eos": True},
    }
    generator = engines.generator("run", config, None)
    batch: Any = [[{"role": "user", "content": "What is the sum?"}]] * 64
    future = generator.submit(batch)
    _say("up", pids=_tree())
    next(each for each in psutil.Process().children() if "EngineCore" in each.name()).kill()
    try:
        future.result()
    except RunFailure as failure:
        _say("died", reason=failure.reason, message=failure.message, blame=failure.blame, retry=failure.retry)
    answers = generator.submit(batch[:1]).result()
    _say("up again", pids=_tree(), error=answers[0].error, tokens=answers[0].completion_tokens)
    threading.Event().wait()


def _tree() -> list[int]:
    return [each.pid for each in psutil.Process().children(recursive=True)]


def _say(event: str, **more: Any) -> None:
    print(json.dumps({"event": event, **more}), flush=True)


if __name__ == "__main__":
    main()
