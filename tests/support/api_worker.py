"""A worker's process that asks an API all it is allowed to: `python tests/support/api_worker.py '<JSON>'`.

The JSON has `base_url`, `key`, `volume_url`, `experiment`, `name`, `config` (more of the `api_config`), `batch` and
`seconds`.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from rapidfireai_worker.evals.generators.api import ApiClients
from rapidfireai_worker.evals.parts import Generation, Site
from rapidfireai_worker.layout import Volume


def work(told: dict[str, Any]) -> int:
    """Keep batches under way for a while; return how many rows were answered."""
    site = Site(Volume(Path()), experiment_uid=told["experiment"], worker=told["name"], volume_url=told["volume_url"])
    clients = ApiClients(site)
    config = {
        "client_config": {"base_url": told["base_url"], "api_key": told["key"]},
        "model_config": {"model": "tiny"},
        **told["config"],
    }
    generator = clients.generator(told["name"], config, None)
    under_way: deque[Future[list[Generation]]] = deque()
    answered, end, number = 0, time.monotonic() + told["seconds"], 0
    while time.monotonic() < end:
        while len(under_way) < 4:
            number += 1
            texts = [f"{told['name']} {number}.{row} " + "word " * 20 for row in range(told["batch"])]
            rows = [[{"role": "user", "content": text}] for text in texts]
            under_way.append(generator.submit(rows))
        try:
            answers = under_way[0].result(max(0.01, end - time.monotonic()))
            answered += sum(answer.text is not None for answer in answers)
            under_way.popleft()
        except TimeoutError:
            break
    clients.close()
    return answered


if __name__ == "__main__":
    print(work(json.loads(sys.argv[1])))
