"""Runs of a model that needs real memory, under a limit that the kernel enforces: `hungry.py ROOT MODEL`.

Two runs of full fine-tuning, of which one fits beside the base and two do not, and a third one that never fits.
What became of them is printed as JSON.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path
from typing import Any

from tests.support.lab import Lab

from rapidfireai_worker.engine import RunFailure
from rapidfireai_worker.fit.engine import FitEngine

MIB = 2**20


def main() -> None:
    lab, model = Lab(Path(sys.argv[1]), chunks=2), sys.argv[2]
    engine = FitEngine(lab.volume, lab.claims, threads=1)
    lab.chunk(engine, "small", config(model, 1), 0)
    engine.evict("small-uid")
    limit_to(data_bytes() + 8 * model_bytes(model))
    told: dict[str, Any] = {"residents": []}
    for chunk in (0, 1):
        for name in ("a", "b"):
            lab.chunk(engine, name, config(model, 1), chunk)
            told["residents"].append(sorted(engine.holdings().residents))
    try:
        lab.chunk(engine, "hopeless", config(model, 64), 0)
    except RunFailure as failure:
        told["failure"] = {"reason": failure.reason, "message": failure.message, "retry": failure.retry}
    lab.chunk(engine, "small", config(model, 1), 1)
    told["models"] = {name: str(lab.model(name)) for name in ("a", "b", "small")}
    print(json.dumps(told))


def config(model: str, batch: int) -> dict[str, Any]:
    arguments = {"per_device_train_batch_size": batch, "max_steps": 2, "optim": "adamw_torch", "learning_rate": 1e-3}
    return {"trainer_type": "SFT", "model_name": model, "training_args": arguments}


def model_bytes(model: str) -> int:
    return sum(file.stat().st_size for file in Path(model).glob("*.safetensors"))


def data_bytes() -> int:
    """What the limit is compared with: every private page that may be written."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
    return int(line.split()[1]) * 1024


def limit_to(size: int) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (size, size))


if __name__ == "__main__":
    main()
